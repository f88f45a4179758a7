"""Every accepted resource is the same in each way of reading it over gRPC."""

from itertools import count
from typing import Any

import grpc
import pytest
from configsvc_client.v1 import config_pb2, flag_pb2, registry_pb2
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.rpc import reads, strategies
from tests.rpc.messages import value
from tests.rpc.reads import Stubs, next_change, synced_watch
from tests.rpc.server_process import PATIENCE_SECONDS

NUMBERS = count(1)
EXAMPLES = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def stubs(grpc_channel: grpc.Channel) -> Stubs:
    return Stubs.of(grpc_channel)


def check_same(found: dict[str, Any], expected: Any) -> None:
    """Each way shows the same bytes. Messages with 0.0 and -0.0 would be equal."""
    text = expected.SerializeToString(deterministic=True)
    different = [way for way, one in found.items() if one.SerializeToString(deterministic=True) != text]
    assert not different, f"{different} differ from {expected}: {found}"


def create(stubs: Stubs, environment: str, key: str, sent: Value, **more: Any) -> Any:
    request = config_pb2.CreateConfigRequest(key=key, environment=environment, value=sent, **more)
    return stubs.configs.CreateConfig(request, timeout=PATIENCE_SECONDS).config


@EXAMPLES
@given(json=strategies.JSON | strategies.DEEP, service=st.sampled_from(["", "svc"]))
def test_configuration_is_the_same_in_each_read(
    grpc_server: Any, stubs: Stubs, environment: str, json: Any, service: str
) -> None:
    key, sent = f"k{next(NUMBERS)}", value(json)
    where: dict[str, Any] = {"environment": environment, "service_name": service}
    with synced_watch(stubs.configs.WatchConfigs, config_pb2.WatchConfigsRequest(keys=[key], **where)) as live:
        made = create(stubs, environment, key, sent, service_name=service)
        change = next_change(live)
        found = {
            "create": made.value,
            "live": change.config.value,
            **reads.config_in_every_read(stubs, environment, key, service),
        }
        check_same(found, sent)
        # And as the previous state.
        other = config_pb2.ConfigOperation(key=key, service_name=service, value=value("other"))
        batch = config_pb2.BatchWriteConfigsRequest(environment=environment, operations=[other])
        stubs.configs.BatchWriteConfigs(batch, timeout=PATIENCE_SECONDS)
        change = next_change(live)
    assert (change.previous.version, change.previous.etag) == (made.version, made.etag)
    history = stubs.configs.ListConfigHistory(config_pb2.ListConfigHistoryRequest(key=key, **where)).versions
    diff = stubs.configs.DiffConfig(config_pb2.DiffConfigRequest(key=key, from_version=1, **where))
    check_same(
        {"previous": change.previous.value, "before": history[0].before, "diff": getattr(diff, "from").after}, sent
    )
    back = config_pb2.RollbackConfigRequest(key=key, version=1, **where)
    rolled = stubs.configs.RollbackConfig(back, timeout=PATIENCE_SECONDS).config.value
    put = config_pb2.ConfigOperation(key=key, service_name=service, value=sent)
    again = config_pb2.BatchWriteConfigsRequest(environment=environment, operations=[put])
    check_same({"rollback": rolled, "batch": stubs.configs.BatchWriteConfigs(again).configs[0].value}, sent)
    check_same(reads.config_in_every_read(stubs, environment, key, service), sent)


def without_outputs(flag: flag_pb2.Flag) -> flag_pb2.Flag:
    """The definition without what the service adds."""
    kept = flag_pb2.Flag()
    kept.CopyFrom(flag)
    for field in ("version", "etag", "revision", "created_at", "updated_at", "updated_by"):
        kept.ClearField(field)
    return kept


@EXAMPLES
@given(definition=strategies.flags())
def test_flag_is_the_same_in_each_read(
    grpc_server: Any, stubs: Stubs, environment: str, definition: dict[str, Any]
) -> None:
    name = f"f{next(NUMBERS)}"
    sent = ParseDict({**definition, "name": name, "environment": environment, "salt": "s"}, flag_pb2.Flag())
    fields = {field.name: field_value for field, field_value in sent.ListFields()}
    watch = flag_pb2.WatchFlagsRequest(environment=environment, names=[name])
    with synced_watch(stubs.flags.WatchFlags, watch) as live:
        made = stubs.flags.CreateFlag(flag_pb2.CreateFlagRequest(**fields), timeout=PATIENCE_SECONDS).flag
        check_same({"create": without_outputs(made)}, sent)
        change = next_change(live)
        check_same({"live": change.flag, **reads.flag_in_every_read(stubs, environment, name)}, made)
        deleted = stubs.flags.DeleteFlag(flag_pb2.DeleteFlagRequest(name=name, environment=environment))
        change = next_change(live)
    assert (change.previous.version, change.previous.etag, deleted.version) == (
        made.version,
        made.etag,
        made.version + 1,
    )
    newest = flag_pb2.ListFlagHistoryRequest(name=name, environment=environment, page_size=1)
    before = stubs.flags.ListFlagHistory(newest).versions[0].before
    check_same({"previous": without_outputs(change.previous), "before": without_outputs(before)}, sent)


@EXAMPLES
@given(definition=strategies.flags())
def test_evaluation_serves_the_value_of_the_variant(
    grpc_server: Any, stubs: Stubs, environment: str, definition: dict[str, Any]
) -> None:
    name = f"f{next(NUMBERS)}"
    served = {**definition, "enabled": False, "off_variant": definition["default_variant"]}
    sent = ParseDict({**served, "name": name, "environment": environment}, flag_pb2.CreateFlagRequest())
    stubs.flags.CreateFlag(sent, timeout=PATIENCE_SECONDS)
    expected = next(v.value for v in sent.variants if v.name == sent.off_variant)
    one = flag_pb2.EvaluateFlagRequest(flag_name=name, environment=environment, user_id="u", explain=True)
    many = flag_pb2.BatchEvaluateFlagsRequest(flag_names=[name], environment=environment)
    found = {
        "evaluate": stubs.flags.EvaluateFlag(one).evaluation.value,
        "batch": stubs.flags.BatchEvaluateFlags(many).results[0].value,
    }
    check_same(found, expected)


@EXAMPLES
@given(registration=strategies.registrations)
def test_instance_is_the_same_in_each_read(grpc_server: Any, stubs: Stubs, registration: dict[str, Any]) -> None:
    service = f"s{next(NUMBERS)}"
    watch = registry_pb2.WatchServiceRequest(service_name=service)
    sent = ParseDict({**registration, "service_name": service}, registry_pb2.RegisterInstanceRequest())
    with synced_watch(stubs.registry.WatchService, watch) as live:
        made = stubs.registry.RegisterInstance(sent, timeout=PATIENCE_SECONDS).instance
        change = next_change(live).instance
    found = {"register": made, "live": change, **reads.instance_in_every_read(stubs, service, made.instance_id)}
    for instance in found.values():
        instance.ClearField("last_heartbeat_at")
    assert registration == {name: _member(made, name) for name in registration}
    check_same(found, made)


def _member(instance: registry_pb2.Instance, name: str) -> Any:
    found = getattr(instance, name)
    return dict(found) if name == "metadata" else found


def test_missing_value_is_not_null(stubs: Stubs, environment: str) -> None:
    for empty in (None, Value()):
        with pytest.raises(grpc.RpcError) as raised:
            create(stubs, environment, "k", empty)  # type: ignore[arg-type]
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
