"""What requests ask a configuration to be."""

from collections.abc import Collection
from typing import Protocol

from configsvc_client.v1 import config_pb2

from configsvc.domain.configs import ConfigDraft, ConfigOperation, config_ref
from configsvc.domain.json_values import MISSING, MISSING_VALUE
from configsvc.domain.records import Ref
from configsvc.errors import InvalidInput
from configsvc.rpc.convert.values import json_or_missing
from configsvc.rpc.requests import field_mask, preconditions

# The fields of a configuration that an update can write.
CONFIG_FIELDS = field_mask.writable_fields(
    config_pb2.UpdateConfigRequest, config_pb2.Config, identity=("key", "environment", "service_name")
)


class ConfigIdentity(Protocol):
    """A request about one configuration."""

    @property
    def environment(self) -> str: ...

    @property
    def service_name(self) -> str: ...

    @property
    def key(self) -> str: ...


def ref_of(request: ConfigIdentity) -> Ref:
    """The configuration that a request is about."""
    return config_ref(request.environment, request.service_name, request.key)


def config_draft(request: config_pb2.CreateConfigRequest | config_pb2.UpdateConfigRequest) -> ConfigDraft:
    """The whole configuration. The store checks it; a missing value stays MISSING until then."""
    return ConfigDraft(
        environment=request.environment,
        service_name=request.service_name,
        key=request.key,
        value=json_or_missing(request),
        description=request.description,
    )


def partial_config_draft(request: config_pb2.UpdateConfigRequest, fields: Collection[str]) -> ConfigDraft:
    """Only these fields; all others stay as they are."""
    value = json_or_missing(request)
    if "value" not in fields:
        value = MISSING
    elif value is MISSING:
        raise InvalidInput.of("value", MISSING_VALUE)
    description = request.description if "description" in fields else None
    return ConfigDraft(request.environment, request.service_name, request.key, value, description)


def config_operation(request: config_pb2.BatchWriteConfigsRequest, index: int) -> ConfigOperation:
    """One operation of a batch."""
    operation, path = request.operations[index], f"operations[{index}]"
    if operation.delete and operation.HasField("value"):
        raise InvalidInput.of(f"{path}.value", "must not be given with delete")
    draft = ConfigDraft(
        environment=request.environment,
        service_name=operation.service_name,
        key=operation.key,
        value=json_or_missing(operation, f"{path}.value"),
        description=operation.description if operation.HasField("description") else None,
    )
    return ConfigOperation(
        draft,
        delete=operation.delete,
        precondition=preconditions.from_operation(operation, path),
        must_not_exist=operation.must_not_exist,
    )
