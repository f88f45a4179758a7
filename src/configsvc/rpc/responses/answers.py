"""Answers with more than one list: as much of each list as fits into one message."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from configsvc_client.v1 import config_pb2, flag_pb2

from configsvc.app.changelog.history import Diff
from configsvc.app.configs.store import BulkRead
from configsvc.domain.records import Change, Commit
from configsvc.domain.sizes import ANSWER_BYTES
from configsvc.rpc import convert
from configsvc.rpc.convert.message_budget import ITEM_OVERHEAD_BYTES, Detail, MessageBudget

DiffResponse = TypeVar("DiffResponse", config_pb2.DiffConfigResponse, flag_pb2.DiffFlagResponse)


def bulk_response(keys: Sequence[str], read: BulkRead) -> config_pb2.BulkGetConfigsResponse:
    """The configurations that exist and fit, in the order of the request. Every key is in exactly one of the lists."""
    names_bytes = sum(len(key.encode()) + ITEM_OVERHEAD_BYTES for key in keys)
    configs = MessageBudget(ANSWER_BYTES - names_bytes).fill(convert.config, read.found)
    return config_pb2.BulkGetConfigsResponse(
        configs=configs,
        missing=read.missing,
        revision=read.revision,
        not_included=[*(record.ref.key for record in read.found[len(configs) :]), *read.not_read],
    )


def batch_response(commit: Commit) -> config_pb2.BatchWriteConfigsResponse:
    """What a batch wrote and deleted. The caller has the values already, so values that don't fit are left out."""
    records = [change.record for change in commit.changes if change.record is not None]
    response = config_pb2.BatchWriteConfigsResponse(
        configs=[convert.config(record, Detail.IDENTITY) for record in records],
        revision=commit.revision,
        deleted=[change.ref.key for change in commit.changes if change.record is None],
    )
    # Without values the answer fits: `app/configs/batch_write` refuses a batch whose answer would not.
    whole = MessageBudget(ANSWER_BYTES - response.ByteSize()).fill(convert.config, records)
    for index, message in enumerate(whole):
        response.configs[index].CopyFrom(message)
    return response


def diff_response(
    response_type: type[DiffResponse], version: Callable[[Change, Detail], Any], diff: Diff
) -> DiffResponse:
    """Both versions, in as much detail as fits into half of the answer, and as many differences as fit beside them."""
    for detail in Detail:
        response = response_type()
        response.to.CopyFrom(version(diff.newer, detail))
        # `from` is a keyword of Python.
        getattr(response, "from").CopyFrom(version(diff.older, detail))
        if response.ByteSize() <= ANSWER_BYTES // 2:
            break
    all_differences = diff.differences
    differences = MessageBudget(ANSWER_BYTES - response.ByteSize()).fill(convert.difference, all_differences)
    response.differences.extend(differences)
    response.differences_omitted = len(all_differences) - len(differences)
    return response
