"""Answers that have more than one list, as much of each as fits into one message."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from configsvc_client.v1 import config_pb2
from google.protobuf.message import Message

from configsvc.app.changelog.history import Diff
from configsvc.app.configs.store import BulkRead
from configsvc.domain.records import Change, Commit
from configsvc.domain.sizes import ANSWER_BYTES
from configsvc.rpc import convert
from configsvc.rpc.responses.message_budget import ITEM_OVERHEAD_BYTES, Detail, MessageBudget

D = TypeVar("D", bound=Message)


def bulk(keys: Sequence[str], found: BulkRead) -> config_pb2.BulkGetConfigsResponse:
    """What was found, in the order asked, and the keys of what is not here: each key is in one of the lists."""
    names_bytes = sum(len(key.encode()) + ITEM_OVERHEAD_BYTES for key in keys)
    configs = MessageBudget(ANSWER_BYTES - names_bytes).fill(convert.config, found.found)
    return config_pb2.BulkGetConfigsResponse(
        configs=configs,
        missing=found.missing,
        revision=found.revision,
        not_included=[*(record.ref.key for record in found.found[len(configs) :]), *found.not_read],
    )


def batch(commit: Commit) -> config_pb2.BatchWriteConfigsResponse:
    """What was put, and deleted. The caller has the values; they are told as far as they fit."""
    records = [change.record for change in commit.changes if change.record is not None]
    response = config_pb2.BatchWriteConfigsResponse(
        configs=[convert.config(record, Detail.IDENTITY) for record in records],
        revision=commit.revision,
        deleted=[change.ref.key for change in commit.changes if change.record is None],
    )
    # Without values it fits: a batch of which it would not is refused (ConfigStore.batch_write).
    for place, message in enumerate(MessageBudget(ANSWER_BYTES - response.ByteSize()).fill(convert.config, records)):
        response.configs[place].CopyFrom(message)
    return response


def compared(response_type: type[D], version: Callable[[Change, Detail], Any], found: Diff) -> D:
    """Both versions in as much detail as fits into half of the answer, and as many differences as fit beside them."""
    for detail in Detail:
        response: Any = response_type()
        response.to.CopyFrom(version(found.newer, detail))
        # `from` is a word of the language.
        getattr(response, "from").CopyFrom(version(found.older, detail))
        if response.ByteSize() <= ANSWER_BYTES // 2:
            break
    all_differences = found.differences
    differences = MessageBudget(ANSWER_BYTES - response.ByteSize()).fill(convert.difference, all_differences)
    response.differences.extend(differences)
    response.differences_omitted = len(all_differences) - len(differences)
    return response  # type: ignore[no-any-return]
