"""Watches over gRPC: the order of messages, resuming, and what ends a watch."""

from collections.abc import Callable
from typing import Any

import grpc
import pytest
from configsvc_client.v1 import config_pb2, config_pb2_grpc, flag_pb2, flag_pb2_grpc, registry_pb2, registry_pb2_grpc

from tests.rpc.messages import put, value
from tests.rpc.refusals import refusal, refused
from tests.rpc.response_stream import ResponseStream
from tests.rpc.server_process import ServerProcess, eventually

Code = grpc.StatusCode
BUFFERED = 4


@pytest.fixture(scope="module")
def settings() -> dict[str, str]:
    return {"WATCH_PROGRESS_SECONDS": "0.2", "WATCH_BUFFER_MESSAGES": str(BUFFERED)}


def watch(configs: Any, environment: str, **more: Any) -> ResponseStream:
    return ResponseStream(configs.WatchConfigs(config_pb2.WatchConfigsRequest(environment=environment, **more)))


def test_watch_sends_snapshot_synced_changes_and_progress_in_order(
    configs: config_pb2_grpc.ConfigServiceStub, environment: str
) -> None:
    first = put(configs, environment, "a", 1).revision
    with watch(configs, environment) as stream:
        snapshot = stream.take().snapshot
        assert [(config.key, config.value.number_value) for config in snapshot.configs] == [("a", 1)]
        assert stream.take().synced.revision == first
        second = put(configs, environment, "b", 2).revision
        change = stream.take_until("change")[-1].change
        assert (change.type, change.revision, change.config.key) == ("PUT", second, "b")
        deleted = configs.DeleteConfig(config_pb2.DeleteConfigRequest(key="a", environment=environment)).revision
        change = stream.take_until("change")[-1].change
        assert (change.type, change.revision) == ("DELETE", deleted)
        assert change.previous.value.number_value == 1
        # In another environment, so this watch has no change of it.
        other_revision = put(configs, f"{environment}-2", "c", 3).revision
        eventually(
            lambda: stream.take_until("progress")[-1].progress.revision == other_revision,
            "progress reaches the revision",
        )


def test_flags_and_instances_are_watched_like_configs(
    flags: flag_pb2_grpc.FlagServiceStub, registry: registry_pb2_grpc.RegistryServiceStub, environment: str
) -> None:
    with (
        ResponseStream(flags.WatchFlags(flag_pb2.WatchFlagsRequest(environment=environment))) as of_flags,
        ResponseStream(
            registry.WatchService(registry_pb2.WatchServiceRequest(service_name=environment))
        ) as of_instances,
    ):
        assert of_flags.take().HasField("synced")
        assert of_instances.take().HasField("synced")
        flag = flags.CreateFlag(flag_pb2.CreateFlagRequest(name="f", environment=environment))
        change = of_flags.take_until("change")[-1].change
        assert (change.revision, change.flag) == (flag.revision, flag.flag)
        registered = registry.RegisterInstance(
            registry_pb2.RegisterInstanceRequest(service_name=environment, instance_id="one", service_url="http://h:1")
        )
        change = of_instances.take_until("change")[-1].change
        assert (change.revision, change.instance.instance_id) == (registered.revision, "one")


def test_resumed_watch_gets_every_missed_change_and_no_snapshot(
    configs: config_pb2_grpc.ConfigServiceStub, environment: str
) -> None:
    seen = put(configs, environment, "k", 0).revision
    missed = [put(configs, environment, "k", number).revision for number in range(1, 30)]
    with watch(configs, environment, after_revision=seen) as stream:
        assert stream.take().synced.revision == seen
        changes = [stream.take_until("change")[-1].change for _ in missed]
    assert [change.revision for change in changes] == missed
    assert [change.config.value.number_value for change in changes] == list(range(1, 30))


def test_last_change_of_a_batch_completes_its_revision(
    configs: config_pb2_grpc.ConfigServiceStub, environment: str
) -> None:
    def operation(key: str, service: str) -> config_pb2.ConfigOperation:
        return config_pb2.ConfigOperation(key=key, service_name=service, value=value(1))

    operations = [operation("a", "one"), operation("b", "one"), operation("c", "two"), operation("d", "two")]
    with watch(configs, environment, service_name="one") as live, watch(configs, environment) as everything:
        seen = live.take_until("synced")[-1].synced.revision
        everything.take_until("synced")
        configs.BatchWriteConfigs(config_pb2.BatchWriteConfigsRequest(environment=environment, operations=operations))
        for stream in (live, watch(configs, environment, service_name="one", after_revision=seen)):
            changes = [stream.take_until("change")[-1].change for _ in range(2)]
            assert [(c.config.key, c.revision_complete) for c in changes] == [("a", False), ("b", True)]
        changes = [everything.take_until("change")[-1].change for _ in range(4)]
        assert [c.revision_complete for c in changes] == [False, False, False, True]
    # A watch that was cut inside the batch resumes at the revision before it, and gets the whole batch again.
    with watch(configs, environment, after_revision=seen) as stream:
        assert [stream.take_until("change")[-1].change.config.key for _ in range(4)] == ["a", "b", "c", "d"]


def test_watch_from_compacted_revision_is_out_of_range_with_the_oldest_kept_revision(
    own_server: Callable[..., ServerProcess], environment: str
) -> None:
    server = own_server(COMPACTION_KEEP_CHANGES="3", COMPACTION_INTERVAL_SECONDS="0.1")
    with server.channel() as channel:
        configs = config_pb2_grpc.ConfigServiceStub(channel)
        for number in range(20):
            current = put(configs, environment, "k", number).revision
        oldest = current - 3
        found = eventually(lambda: _out_of_range(configs, environment, oldest), "the log is compacted")
        assert found.info.reason == "REVISION_OUT_OF_RANGE"
        assert found.info.metadata["current_revision"] == str(current)
        with watch(configs, environment, after_revision=oldest) as stream:
            stream.take_until("synced")
            changes = [stream.take_until("change")[-1].change.revision for _ in range(current - oldest)]
        assert changes == list(range(oldest + 1, current + 1))


def _out_of_range(configs: Any, environment: str, oldest: int) -> Any:
    """The refusal of a watch from revision 2, once the oldest kept revision is `oldest`. None before that."""
    request = config_pb2.WatchConfigsRequest(environment=environment, after_revision=2)
    call = configs.WatchConfigs(request)
    try:
        next(call)
    except grpc.RpcError as error:
        found = refusal(error)
        assert found.code == Code.OUT_OF_RANGE
        return found if found.info.metadata["oldest_revision"] == str(oldest) else None
    finally:
        call.cancel()
    return None


def test_client_that_does_not_read_gets_the_newest_changes_and_delays_no_writer(
    configs: config_pb2_grpc.ConfigServiceStub, environment: str
) -> None:
    """Changes that the client has not read are conflated by key. The test writes more than the buffers of the network hold."""
    call = configs.WatchConfigs(config_pb2.WatchConfigsRequest(environment=environment))
    assert next(call).HasField("synced")
    large = "x" * 200_000
    last = {}
    for number in range(60):
        key = f"k{number % 2}"
        last[key] = put(configs, environment, key, f"{number}{large}").revision
    changes = []
    for message in call:
        if message.HasField("change"):
            changes.append(message.change)
            if message.change.revision == max(last.values()):
                break
    call.cancel()
    revisions = [change.revision for change in changes]
    assert revisions == sorted(set(revisions))
    assert len(changes) < 60
    newest = {change.config.key: change.revision for change in changes}
    assert newest == last


def test_stopping_server_tells_watchers_by_message_and_by_status(
    own_server: Callable[..., ServerProcess], environment: str
) -> None:
    server = own_server(SHUTDOWN_GRACE_SECONDS="60")
    with server.channel() as channel:
        configs, flags = config_pb2_grpc.ConfigServiceStub(channel), flag_pb2_grpc.FlagServiceStub(channel)
        with (
            watch(configs, environment) as one,
            ResponseStream(flags.WatchFlags(flag_pb2.WatchFlagsRequest(environment=environment))) as two,
        ):
            one.take_until("synced")
            two.take_until("synced")
            server.terminate()
            for stream in (one, two):
                rest, found = stream.end()
                assert found is not None
                assert (found.code, found.info.reason) == (Code.UNAVAILABLE, "SHUTTING_DOWN")
                assert rest[-1].error.code == Code.UNAVAILABLE.value[0]
            # Long before the end of the grace period.
            assert server.wait_for_exit() == 0


def test_watch_ends_at_the_callers_deadline_and_not_at_the_default_one(
    own_server: Callable[..., ServerProcess], environment: str
) -> None:
    server = own_server(DEFAULT_DEADLINE_SECONDS="0.3", WATCH_PROGRESS_SECONDS="0.2")
    with server.channel() as channel:
        configs = config_pb2_grpc.ConfigServiceStub(channel)
        with watch(configs, environment) as stream:
            for _ in range(4):
                stream.take_until("progress")
        request = config_pb2.WatchConfigsRequest(environment=environment)
        found = refused(lambda: configs.WatchConfigs(request, timeout=0.5, metadata=(("x-request-id", "short"),)))
        assert found.code == Code.DEADLINE_EXCEEDED
        (line,) = server.access_log("short")
        assert line["code"] == "DEADLINE_EXCEEDED"
