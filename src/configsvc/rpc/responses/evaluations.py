"""The results of a batch of evaluations, in the order of the request, in one message."""

from collections.abc import Sequence

from configsvc_client.v1 import flag_pb2

from configsvc.app.flags.evaluation import FailedItem, Outcome
from configsvc.domain.sizes import ANSWER_BYTES
from configsvc.errors import ResourceExhausted
from configsvc.rpc import convert
from configsvc.rpc.convert.message_budget import ITEM_OVERHEAD_BYTES, Detail

_OMITTED = "left out, since the answer is full: ask for it again"


def evaluations(outcomes: Sequence[Outcome], users: Sequence[str]) -> list[flag_pb2.Evaluation]:
    """One result for each outcome, in order.

    A result that does not fit beside the others goes without its explanation. If that is not enough, it is an error of
    that item.

    Raises:
        ResourceExhausted: not even the errors would fit.
    """
    placeholders = [convert.evaluation(FailedItem(one.flag_name, "", "GENERAL", _OMITTED), "") for one in outcomes]
    sizes = [message.ByteSize() + ITEM_OVERHEAD_BYTES for message in placeholders]
    left_bytes = ANSWER_BYTES - sum(sizes)
    if left_bytes < 0:
        raise ResourceExhausted(
            f"the results of {len(outcomes)} evaluations do not fit into one message: ask for fewer, by flag_names or requests",
            "ANSWER_TOO_LARGE",
        )
    results: list[flag_pb2.Evaluation] = []
    for outcome, user, placeholder, size in zip(outcomes, users, placeholders, sizes, strict=True):
        result = placeholder
        for detail in (Detail.FULL, Detail.WITHOUT_BEFORE):
            message = convert.evaluation(outcome, user, detail)
            added_bytes = message.ByteSize() + ITEM_OVERHEAD_BYTES - size
            if added_bytes <= left_bytes:
                left_bytes -= added_bytes
                result = message
                break
        results.append(result)
    return results
