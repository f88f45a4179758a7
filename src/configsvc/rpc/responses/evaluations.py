"""The results of a batch of evaluations, each in its place, in one message."""

from collections.abc import Sequence

from configsvc_client.v1 import flag_pb2

from configsvc.app.flags.evaluation import FailedItem, Outcome
from configsvc.domain.sizes import ANSWER_BYTES
from configsvc.errors import ResourceExhausted
from configsvc.rpc import convert
from configsvc.rpc.responses.message_budget import ITEM_OVERHEAD_BYTES, Detail

_OMITTED = "left out, since the answer is full: ask for it again"


def evaluations(outcomes: Sequence[Outcome], users: Sequence[str]) -> list[flag_pb2.Evaluation]:
    """A result for each outcome, in order. One that does not fit beside the others goes without its explanation; where
    that is not enough, it is an error of that item.

    Raises:
        ResourceExhausted: not even the errors would fit.
    """
    omitted = [convert.evaluation(FailedItem(outcome.flag_name, "", "GENERAL", _OMITTED), "") for outcome in outcomes]
    sizes = [message.ByteSize() + ITEM_OVERHEAD_BYTES for message in omitted]
    left_bytes = ANSWER_BYTES - sum(sizes)
    if left_bytes < 0:
        raise ResourceExhausted(
            f"the results of {len(outcomes)} evaluations do not fit into one message: ask for fewer, by flag_names or requests",
            "ANSWER_TOO_LARGE",
        )
    results: list[flag_pb2.Evaluation] = []
    for outcome, user, message, size in zip(outcomes, users, omitted, sizes, strict=True):
        for detail in (Detail.FULL, Detail.WITHOUT_BEFORE):
            told = convert.evaluation(outcome, user, detail)
            more = told.ByteSize() + ITEM_OVERHEAD_BYTES - size
            if more <= left_bytes:
                left_bytes -= more
                message = told
                break
        results.append(message)
    return results
