"""Whatever can be written can be read by a stock gRPC client, which receives at most 4 MiB a message, in every read."""

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from configsvc_client.v1 import change_pb2, config_pb2, flag_pb2, registry_pb2
from google.protobuf.struct_pb2 import ListValue, Value

from configsvc.domain.sizes import RESOURCE_BYTES
from tests.rpc import reads
from tests.rpc.messages import put, value
from tests.rpc.reads import Stubs, list_all, next_change, read_snapshot, synced_watch
from tests.rpc.refusals import refused
from tests.rpc.server_process import ServerProcess

# Only a failing test waits for so long. Megabytes of small items take long on a busy machine.
LARGE_SECONDS = 100.0


@pytest.fixture(scope="module")
def settings() -> dict[str, str]:
    """The limits of a value and of a page are larger than a message."""
    return {"MAX_VALUE_BYTES": str(16 << 20), "DEFAULT_DEADLINE_SECONDS": "100"}


@pytest.fixture(scope="module")
def stubs(grpc_addr: str, grpc_server: ServerProcess) -> Iterator[Stubs]:
    """Stubs of a client that receives like a stock client, and sends messages of any size."""
    with grpc.insecure_channel(grpc_addr, [("grpc.max_send_message_length", -1)]) as channel:
        yield Stubs.of(channel)


def text(size: int, letter: str = "x") -> Value:
    return Value(string_value=letter * size)


# Just below the largest size. The JSON of a list of numbers has a fifth of the size of its message.
NEAR = RESOURCE_BYTES - 200


def many(item: Value, size: int) -> Value:
    return Value(list_value=ListValue(values=[item] * (size // (item.ByteSize() + 2))))


@pytest.mark.parametrize(
    "sent",
    [text(NEAR), text(NEAR // 4, "🎉"), many(Value(number_value=1), NEAR // 4)],
    ids=["text", "emoji", "numbers"],
)
def test_largest_value_of_each_kind_is_in_every_read(stubs: Stubs, environment: str, sent: Value) -> None:
    with synced_watch(stubs.configs.WatchConfigs, config_pb2.WatchConfigsRequest(environment=environment)) as live:
        request = config_pb2.CreateConfigRequest(key="k", environment=environment, value=sent)
        made = stubs.configs.CreateConfig(request, timeout=LARGE_SECONDS).config
        change = next_change(live)
    found = {"create": made.value, "live": change.config.value, **reads.config_in_every_read(stubs, environment, "k")}
    # A diff has both versions. If they don't fit into one message, it omits their values; the history has them.
    is_half = sent.ByteSize() > RESOURCE_BYTES // 2
    assert [way for way, one in found.items() if one != sent] == (["diff"] if is_half else [])


def test_value_before_a_change_is_omitted_and_marked_if_both_values_are_large(stubs: Stubs, environment: str) -> None:
    scope: dict[str, Any] = {"environment": environment}
    watch = config_pb2.WatchConfigsRequest(**scope)
    first, second = text(NEAR, "a"), text(NEAR, "b")
    with synced_watch(stubs.configs.WatchConfigs, watch) as live:
        for sent in (first, second):
            request = config_pb2.UpdateConfigRequest(key="k", value=sent, allow_missing=True, **scope)
            made = stubs.configs.UpdateConfig(request, timeout=LARGE_SECONDS).config
            change = next_change(live)
    assert (change.config.value, change.HasField("previous"), change.previous_omitted) == (second, False, True)
    resumed = reads.first_change_after(stubs.configs.WatchConfigs, watch, made.revision - 1)
    assert resumed == change
    versions = list_all(
        stubs.configs.ListConfigHistory, config_pb2.ListConfigHistoryRequest(key="k", **scope), "versions"
    )
    assert [(v.after, v.before_omitted) for v in versions] == [(second, True), (first, False)]
    trail = list_all(stubs.changes.ListChanges, change_pb2.ListChangesRequest(**scope), "changes")
    assert [(c.after.fields["value"], c.before_omitted) for c in trail] == [(second, True), (first, False)]
    diff = stubs.configs.DiffConfig(
        config_pb2.DiffConfigRequest(key="k", from_version=1, **scope), timeout=LARGE_SECONDS
    )
    (change,) = diff.differences
    assert (change.op, change.path, diff.to.after_omitted) == ("replace", "", True)
    rolled = stubs.configs.RollbackConfig(
        config_pb2.RollbackConfigRequest(key="k", version=1, **scope), timeout=LARGE_SECONDS
    )
    assert rolled.config.value == first


def test_pages_and_snapshots_are_split_by_size_and_lose_nothing(stubs: Stubs, environment: str) -> None:
    scope: dict[str, Any] = {"environment": environment}
    sent = {f"k{number:03}": text(60_000, str(number % 10)) for number in range(180)}
    for key, one in sent.items():
        stubs.configs.CreateConfig(config_pb2.CreateConfigRequest(key=key, value=one, **scope))
    pages: list[int] = []

    def counted(request: Any, timeout: float) -> Any:
        answer = stubs.configs.ListConfigs(request, timeout=timeout)
        pages.append(len(answer.configs))
        return answer

    listed = list_all(counted, config_pb2.ListConfigsRequest(page_size=1000, **scope), "configs")
    assert {c.key: c.value for c in listed} == sent
    assert 3 <= len(pages) <= 4, "a page is as full as a message may be"
    effective = list_all(
        stubs.configs.GetEffectiveConfig, config_pb2.GetEffectiveConfigRequest(service_name="s", **scope), "configs"
    )
    assert {c.key: c.value for c in effective} == sent
    parts = read_snapshot(stubs.configs.WatchConfigs, config_pb2.WatchConfigsRequest(**scope), "configs")
    assert {c.key: c.value for c in parts} == sent
    trail = list_all(stubs.changes.ListChanges, change_pb2.ListChangesRequest(page_size=1000, **scope), "changes")
    assert [c.key for c in trail] == sorted(sent, reverse=True)


def test_bulk_get_lists_the_keys_that_did_not_fit(stubs: Stubs, environment: str) -> None:
    scope: dict[str, Any] = {"environment": environment}
    sent = {f"k{number:03}": text(500_000) for number in range(20)}
    for key, one in sent.items():
        stubs.configs.CreateConfig(config_pb2.CreateConfigRequest(key=key, value=one, **scope))
    keys, found, missing, rounds = ["none", *sent], {}, [], 0
    while keys:
        bulk = stubs.configs.BulkGetConfigs(config_pb2.BulkGetConfigsRequest(keys=keys, **scope))
        listed = [*(config.key for config in bulk.configs), *bulk.missing, *bulk.not_included]
        assert sorted(listed) == sorted(keys), "each key is in one of the lists"
        found.update({config.key: config.value for config in bulk.configs})
        missing += bulk.missing
        keys, rounds = list(bulk.not_included), rounds + 1
    assert (found, missing, rounds) == (sent, ["none"], 3)


def test_batch_answer_omits_values_that_do_not_fit(stubs: Stubs, environment: str) -> None:
    puts = [config_pb2.ConfigOperation(key=f"k{number}", value=text(1_000_000)) for number in range(7)]
    answer = stubs.configs.BatchWriteConfigs(
        config_pb2.BatchWriteConfigsRequest(environment=environment, operations=puts), timeout=LARGE_SECONDS
    )
    assert [config.key for config in answer.configs] == [f"k{number}" for number in range(7)]
    assert [config.value_omitted for config in answer.configs] == [False] * 4 + [True] * 3
    assert {(config.version, config.revision) for config in answer.configs} == {(1, answer.revision)}


def test_batch_whose_answer_would_not_fit_is_refused(own_server: Callable[..., ServerProcess]) -> None:
    running = own_server(MAX_KEY_CHARACTERS="4096")
    with running.channel(max_send_message_length=-1) as channel:
        stubs = Stubs.of(channel)
        keys = [f"{number:04}" + "🎉" * 4_000 for number in range(300)]
        puts = [config_pb2.ConfigOperation(key=key, value=text(1)) for key in keys]
        request = config_pb2.BatchWriteConfigsRequest(environment="e", operations=puts)
        assert refused(lambda: stubs.configs.BatchWriteConfigs(request)).fields == ["operations"]
        assert list(stubs.configs.ListConfigs(config_pb2.ListConfigsRequest(environment="e")).configs) == []
        # A batch whose answer just fits is written.
        request = config_pb2.BatchWriteConfigsRequest(environment="e", operations=puts[:200])
        assert len(stubs.configs.BatchWriteConfigs(request).configs) == 200
        bulk = config_pb2.BulkGetConfigsRequest(environment="e", keys=keys)
        assert refused(lambda: stubs.configs.BulkGetConfigs(bulk)).fields == ["keys"]
        assert (
            len(list_all(stubs.configs.ListConfigs, config_pb2.ListConfigsRequest(environment="e"), "configs")) == 200
        )


@pytest.mark.parametrize(
    "sent", [text(RESOURCE_BYTES), many(Value(number_value=1), RESOURCE_BYTES + 20)], ids=["text", "numbers"]
)
def test_value_too_large_to_send_is_refused(stubs: Stubs, environment: str, sent: Value) -> None:
    scope: dict[str, Any] = {"environment": environment}
    put(stubs.configs, environment, "old", 1)
    one = config_pb2.CreateConfigRequest(key="k", value=sent, **scope)
    found = refused(lambda: stubs.configs.CreateConfig(one, timeout=LARGE_SECONDS))
    assert (found.code, found.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["value"])
    assert f"at most {RESOURCE_BYTES} bytes" in found.message
    operations = [
        config_pb2.ConfigOperation(key="old", value=value(2)),
        config_pb2.ConfigOperation(key="k", value=sent),
    ]
    batch = config_pb2.BatchWriteConfigsRequest(operations=operations, **scope)
    assert refused(lambda: stubs.configs.BatchWriteConfigs(batch, timeout=LARGE_SECONDS)).fields == [
        "operations[1].value"
    ]
    (old,) = stubs.configs.ListConfigs(config_pb2.ListConfigsRequest(**scope)).configs
    assert (old.key, old.version) == ("old", 1)


def test_flag_with_the_most_targeted_users_is_watched_and_resumed(stubs: Stubs, environment: str) -> None:
    users = [f"{number:036}" for number in range(100_000)]
    scope: dict[str, Any] = {"name": "f", "environment": environment}
    watch = flag_pb2.WatchFlagsRequest(environment=environment)
    with synced_watch(stubs.flags.WatchFlags, watch) as live:
        request = flag_pb2.CreateFlagRequest(targeted_users=users, enabled=True, **scope)
        made = stubs.flags.CreateFlag(request, timeout=LARGE_SECONDS).flag
        assert next_change(live).flag == made
        update = flag_pb2.UpdateFlagRequest(targeted_users=users[::-1], enabled=True, **scope)
        new = stubs.flags.UpdateFlag(update, timeout=LARGE_SECONDS).flag
        change = next_change(live)
    assert (change.flag, change.HasField("previous"), change.previous_omitted) == (new, False, True)
    found = reads.flag_in_every_read(stubs, environment, "f")
    assert [way for way, one in found.items() if one != new] == []
    trail = list_all(stubs.changes.ListChanges, change_pb2.ListChangesRequest(environment=environment), "changes")
    assert [(change.before_omitted, change.after_omitted) for change in trail] == [(True, False), (False, False)]


def test_flag_too_large_to_send_is_refused_at_its_largest_member(stubs: Stubs, environment: str) -> None:
    users = [f"{number:0100}" for number in range(40_000)]
    request = flag_pb2.CreateFlagRequest(name="f", environment=environment, targeted_users=users)
    found = refused(lambda: stubs.flags.CreateFlag(request, timeout=LARGE_SECONDS))
    assert (found.code, found.fields, found.info.reason) == (
        grpc.StatusCode.INVALID_ARGUMENT, ["targeted_users"], "RESOURCE_TOO_LARGE"
    )  # fmt: skip
    variants = [flag_pb2.Variant(name=f"v{number}", value=value(["x" * 60_000])) for number in range(80)]
    request = flag_pb2.CreateFlagRequest(
        name="f", environment=environment, value_type="object", variants=variants, default_variant="v0"
    )
    assert refused(lambda: stubs.flags.CreateFlag(request, timeout=LARGE_SECONDS)).fields == ["variants"]
    assert list(stubs.flags.ListFlags(flag_pb2.ListFlagsRequest(environment=environment)).flags) == []


def test_each_evaluation_that_does_not_fit_is_an_error_of_its_item(stubs: Stubs, environment: str) -> None:
    variants = [flag_pb2.Variant(name="v", value=value(["x" * 60_000]))]
    stubs.flags.CreateFlag(
        flag_pb2.CreateFlagRequest(
            name="f", environment=environment, value_type="object", variants=variants, default_variant="v"
        )
    )
    one = flag_pb2.EvaluateFlagRequest(flag_name="f", environment=environment, user_id="u")
    batch = flag_pb2.BatchEvaluateFlagsRequest(requests=[one] * 200)
    results = stubs.flags.BatchEvaluateFlags(batch, timeout=LARGE_SECONDS).results
    assert len(results) == 200
    good = [result for result in results if not result.HasField("error")]
    assert len(good) == 68, "as many as fit"
    assert {r.error.code for r in results} == {"", "GENERAL"}
    assert {r.flag_name for r in results} == {"f"}


def test_instances_that_do_not_fit_are_on_the_next_page(stubs: Stubs, environment: str) -> None:
    metadata = {f"{number:02}": "🎉" * 1024 for number in range(64)}
    ids = [f"i{number:02}" for number in range(30)]
    for instance_id in ids:
        stubs.registry.RegisterInstance(
            registry_pb2.RegisterInstanceRequest(
                service_name=environment, instance_id=instance_id, service_url="http://127.0.0.1:1", metadata=metadata
            )
        )
    for call, request in (
        (stubs.registry.GetService, registry_pb2.GetServiceRequest),
        (stubs.registry.DiscoverInstances, registry_pb2.DiscoverInstancesRequest),
    ):
        assert [i.instance_id for i in list_all(call, request(service_name=environment), "instances")] == ids
        by_ten = request(service_name=environment, page_size=10)
        first = call(by_ten)
        assert [i.instance_id for i in first.instances] == ids[:10]
    watch = registry_pb2.WatchServiceRequest(service_name=environment)
    assert [i.instance_id for i in read_snapshot(stubs.registry.WatchService, watch, "instances")] == ids
