"""After compaction, the history of a live resource shows what is left, and says what is gone."""

from collections.abc import Callable
from typing import Any

import grpc
import pytest
from configsvc_client.v1 import change_pb2, config_pb2, flag_pb2

from tests.rpc.messages import put, value
from tests.rpc.reads import Stubs
from tests.rpc.refusals import refused
from tests.rpc.server_process import ServerProcess, eventually

WHERE: dict[str, Any] = {"environment": "test"}


@pytest.fixture
def stubs(own_server: Callable[..., ServerProcess]) -> Any:
    """Stubs of a service that keeps two changes."""
    running = own_server(COMPACTION_KEEP_CHANGES="2", COMPACTION_INTERVAL_SECONDS="0.05")
    with running.channel() as channel:
        yield Stubs.of(channel)


def compacted_through(stubs: Stubs, revision: int) -> None:
    """Returns when everything up to a revision was compacted away."""
    eventually(
        lambda: stubs.changes.ListChanges(change_pb2.ListChangesRequest()).compacted_revision >= revision, "compaction"
    )


def history(stubs: Stubs, key: str = "k", **more: Any) -> Any:
    return stubs.configs.ListConfigHistory(config_pb2.ListConfigHistoryRequest(key=key, **WHERE, **more))


def test_history_shows_the_versions_left_and_names_the_last_one_compacted(stubs: Stubs) -> None:
    for number in range(1, 4):
        last = put(stubs.configs, "test", "k", number).revision
    compacted_through(stubs, last - 2)
    found = history(stubs)
    assert ([v.version for v in found.versions], found.compacted_through_version) == ([3, 2], 1)
    paged = history(stubs, page_size=1)
    assert (paged.versions[0].version, paged.compacted_through_version) == (3, 1)
    rest = history(stubs, page_size=1, page_token=paged.next_page_token)
    assert (rest.versions[0].version, rest.compacted_through_version, rest.next_page_token) == (2, 1, "")


def test_current_version_is_shown_after_all_its_changes_were_compacted(stubs: Stubs) -> None:
    put(stubs.configs, "test", "k", "old")
    made = put(stubs.configs, "test", "k", "now", description="why").config
    last = [put(stubs.configs, "test", "other", number) for number in range(2)][-1]
    compacted_through(stubs, last.revision - 2)
    found = history(stubs)
    (current,) = found.versions
    assert (current.version, current.after.string_value, current.description) == (2, "now", "why")
    assert (current.revision, current.at, current.actor) == (made.revision, made.updated_at, made.updated_by)
    assert (current.HasField("before"), current.before_omitted, found.compacted_through_version) == (False, True, 1)
    # The current version can be compared and rolled back to; an older version is an error that says why.
    put(stubs.configs, "test", "k", "new")
    diff = stubs.configs.DiffConfig(config_pb2.DiffConfigRequest(key="k", from_version=3, **WHERE))
    assert diff.to.after.string_value == "new"
    for call in (
        lambda: stubs.configs.DiffConfig(config_pb2.DiffConfigRequest(key="k", from_version=1, **WHERE)),
        lambda: stubs.configs.RollbackConfig(config_pb2.RollbackConfigRequest(key="k", version=1, **WHERE)),
    ):
        refusal = refused(call)
        assert (refusal.code, refusal.info.reason) == (grpc.StatusCode.NOT_FOUND, "VERSION_COMPACTED")
        assert (refusal.info.metadata["oldest_version"], refusal.info.metadata["current_version"]) == ("3", "3")
    unknown = refused(lambda: stubs.configs.DiffConfig(config_pb2.DiffConfigRequest(key="k", from_version=9, **WHERE)))
    assert unknown.info.reason == "VERSION_NOT_FOUND"


def test_current_version_can_be_rolled_back_to_and_compared_after_its_change_was_compacted(stubs: Stubs) -> None:
    put(stubs.configs, "test", "k", "now")
    last = [put(stubs.configs, "test", "other", number) for number in range(2)][-1]
    compacted_through(stubs, last.revision - 2)
    diff = stubs.configs.DiffConfig(config_pb2.DiffConfigRequest(key="k", from_version=1, **WHERE))
    assert (diff.to.after, list(diff.differences)) == (value("now"), [])
    rolled = stubs.configs.RollbackConfig(config_pb2.RollbackConfigRequest(key="k", version=1, **WHERE)).config
    assert (rolled.value, rolled.version) == (value("now"), 2)


def test_deleted_configuration_reports_that_its_history_was_compacted(stubs: Stubs) -> None:
    put(stubs.configs, "test", "k", 1)
    stubs.configs.DeleteConfig(config_pb2.DeleteConfigRequest(key="k", **WHERE))
    last = [put(stubs.configs, "test", "other", number) for number in range(2)][-1]
    compacted_through(stubs, last.revision - 2)
    assert refused(lambda: history(stubs)).info.reason == "HISTORY_COMPACTED"
    assert refused(lambda: history(stubs, key="never")).info.reason == "CONFIG_NOT_FOUND"


def test_current_version_of_a_flag_is_shown_after_its_change_was_compacted(stubs: Stubs) -> None:
    made = stubs.flags.CreateFlag(flag_pb2.CreateFlagRequest(name="f", enabled=True, **WHERE)).flag
    last = [put(stubs.configs, "test", "other", number) for number in range(2)][-1]
    compacted_through(stubs, last.revision - 2)
    found = stubs.flags.ListFlagHistory(flag_pb2.ListFlagHistoryRequest(name="f", **WHERE))
    assert (found.versions[0].after, found.versions[0].action) == (made, "CREATE")
    assert (found.versions[0].before_omitted, found.compacted_through_version) == (False, 0)
