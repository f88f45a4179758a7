"""Every writable field of a configuration can be written and read in every way. A new field is tested without a change here.

The fields come from the protos: `UpdateConfigRequest` and `Config` have them both, and they are no part of the identity.
"""

from typing import Any

import grpc
import pytest
from configsvc_client.v1 import config_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.struct_pb2 import Value

from configsvc.domain.configs import Config
from configsvc.rpc.convert import CONFIG_FIELDS
from tests.rpc.server_process import PATIENCE_SECONDS

Contents = dict[str, Any]


def contents(mark: str) -> Contents:
    """A value for each field; two marks never have a value in common."""
    return {name: _sample(config_pb2.Config.DESCRIPTOR.fields_by_name[name], mark) for name in CONFIG_FIELDS}


def _sample(field: FieldDescriptor, mark: str) -> Any:
    text = f"{field.name} {mark}"
    if field.message_type is not None and field.message_type.full_name == "google.protobuf.Value":
        return Value(string_value=text)
    if field.type == FieldDescriptor.TYPE_STRING:
        return text
    raise AssertionError(f"give {field.name} a sample value here: its type is new")


def shown(config: config_pb2.Config) -> Contents:
    return {name: getattr(config, name) for name in CONFIG_FIELDS}


@pytest.fixture
def identity(environment: str) -> Contents:
    return {"environment": environment, "service_name": "svc", "key": "k"}


@pytest.fixture
def created(configs: Any, identity: Contents) -> config_pb2.Config:
    request = config_pb2.CreateConfigRequest(**identity, **contents("old"), request_id=identity["environment"])
    made: config_pb2.Config = configs.CreateConfig(request, timeout=PATIENCE_SECONDS).config
    return made


def read(configs: Any, identity: Contents) -> Contents:
    return shown(configs.GetConfig(config_pb2.GetConfigRequest(**identity), timeout=PATIENCE_SECONDS).config)


def test_create_writes_every_field(configs: Any, identity: Contents, created: config_pb2.Config) -> None:
    assert shown(created) == read(configs, identity) == contents("old")


@pytest.mark.parametrize("name", CONFIG_FIELDS)
@pytest.mark.parametrize("has_mask", [True, False])
def test_update_writes_the_named_field_and_keeps_the_others(
    configs: Any, identity: Contents, created: config_pb2.Config, name: str, has_mask: bool
) -> None:
    request = config_pb2.UpdateConfigRequest(**identity, **{name: contents("new")[name]})
    if has_mask:
        request.update_mask.paths.append(name)
    answer = configs.UpdateConfig(request, timeout=PATIENCE_SECONDS)
    expected = {**contents("old"), name: contents("new")[name]}
    assert shown(answer.config) == read(configs, identity) == expected
    assert list(answer.changed_fields) == [name]


@pytest.mark.parametrize("name", CONFIG_FIELDS)
def test_batch_writes_the_given_field_and_keeps_the_others(
    configs: Any, identity: Contents, created: config_pb2.Config, name: str
) -> None:
    operation = config_pb2.ConfigOperation(key="k", service_name="svc", **{name: contents("new")[name]})
    batch = config_pb2.BatchWriteConfigsRequest(environment=identity["environment"], operations=[operation])
    (written,) = configs.BatchWriteConfigs(batch, timeout=PATIENCE_SECONDS).configs
    assert shown(written) == read(configs, identity) == {**contents("old"), name: contents("new")[name]}


def test_rollback_restores_every_field(configs: Any, identity: Contents, created: config_pb2.Config) -> None:
    changed = config_pb2.UpdateConfigRequest(**identity, **contents("new"))
    configs.UpdateConfig(changed, timeout=PATIENCE_SECONDS)
    rollback = config_pb2.RollbackConfigRequest(**identity, version=1)
    restored = configs.RollbackConfig(rollback, timeout=PATIENCE_SECONDS).config
    assert shown(restored) == read(configs, identity) == contents("old")


@pytest.mark.parametrize("name", CONFIG_FIELDS)
def test_request_id_with_another_value_of_a_field_is_refused(
    configs: Any, identity: Contents, created: config_pb2.Config, name: str
) -> None:
    other = {**contents("old"), name: contents("new")[name]}
    with pytest.raises(grpc.RpcError) as refusal:
        configs.CreateConfig(
            config_pb2.CreateConfigRequest(**identity, **other, request_id=identity["environment"]),
            timeout=PATIENCE_SECONDS,
        )
    assert refusal.value.code() is grpc.StatusCode.FAILED_PRECONDITION


@pytest.mark.parametrize("name", CONFIG_FIELDS)
def test_request_id_of_an_update_with_another_value_of_a_field_is_refused(
    configs: Any, identity: Contents, created: config_pb2.Config, name: str
) -> None:
    def update(mark: str) -> config_pb2.UpdateConfigRequest:
        request_id = f"{identity['environment']}-update"
        return config_pb2.UpdateConfigRequest(**identity, **{name: contents(mark)[name]}, request_id=request_id)

    configs.UpdateConfig(update("new"), timeout=PATIENCE_SECONDS)
    with pytest.raises(grpc.RpcError) as refusal:
        configs.UpdateConfig(update("newer"), timeout=PATIENCE_SECONDS)
    assert refusal.value.code() is grpc.StatusCode.FAILED_PRECONDITION


@pytest.mark.parametrize("name", sorted(set(CONFIG_FIELDS) - {"value"}))
def test_too_long_text_is_refused_by_name(configs: Any, identity: Contents, name: str) -> None:
    request = config_pb2.CreateConfigRequest(**identity, **{**contents("old"), name: "x" * 100_000})
    with pytest.raises(grpc.RpcError) as refusal:
        configs.CreateConfig(request, timeout=PATIENCE_SECONDS)
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert str(refusal.value.details()).startswith(f"{name}:")


def test_record_of_the_first_release_is_read_and_does_not_seem_to_change() -> None:
    """It has `value` and `description` only. A later field has its default, and is not added to the record."""
    stored = {"value": 1, "description": "text"}
    assert {name: bool(getattr(Config.of(stored), name)) for name in CONFIG_FIELDS} == {
        name: name in stored for name in CONFIG_FIELDS
    }
    assert Config.of(stored).body == stored
