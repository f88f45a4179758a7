"""The operations of a batch. Each is the request of the method that does it alone."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from configsvc_client.v1 import change_pb2, config_pb2, flag_pb2

from configsvc.app.batches import BatchOperation, PlannedWrite
from configsvc.app.configs.plans import plan_creation, plan_deletion, plan_update
from configsvc.app.flags.store import FlagStore
from configsvc.domain.batches import errors_at
from configsvc.domain.fields import Fields
from configsvc.domain.flags import flag_ref
from configsvc.domain.preconditions import Precondition
from configsvc.errors import InvalidInput
from configsvc.rpc import convert
from configsvc.rpc.context import CallContext
from configsvc.rpc.convert import CONFIG_FIELDS, FLAG_FIELDS, ref_of
from configsvc.rpc.requests import field_mask, preconditions

# Fields that the batch has for all its operations.
BATCH_FIELDS = ("reason", "request_id")

Plan = Callable[[Fields], PlannedWrite]
# Returns the fields that an operation writes, of those that can be written.
FieldsToWrite = Callable[[Any, Sequence[str]], frozenset[str]]


class OperationPlanner:
    """Reads operations, and plans the writes that they stand for."""

    def __init__(self, flags: FlagStore) -> None:
        self._flags = flags
        self._plans: dict[str, Callable[[Any, FieldsToWrite], Plan]] = {
            "create_config": _create_config,
            "update_config": _update_config,
            "delete_config": _delete_config,
            "create_flag": self._create_flag,
            "update_flag": self._update_flag,
            "delete_flag": self._delete_flag,
        }

    def plan(self, context: CallContext, request: change_pb2.ApplyChangesRequest) -> Sequence[BatchOperation]:
        """The operations of a request. Raises `InvalidInput` if one can't be understood."""
        preconditions.refuse_headers(context)
        return [self._operation(context, request, index) for index in range(len(request.operations))]

    def _operation(self, context: CallContext, batch: change_pb2.ApplyChangesRequest, index: int) -> BatchOperation:
        operation = batch.operations[index]
        kind = operation.WhichOneof("operation")
        if kind is None:
            raise InvalidInput.of(f"operations[{index}]", f"must have one of {', '.join(self._plans)}")
        path, request = f"operations[{index}].{kind}", getattr(operation, kind)
        for name in BATCH_FIELDS:
            if getattr(request, name):
                raise InvalidInput.of(f"{path}.{name}", "must not be given: the batch has one for all its operations")
        request.environment = request.environment or batch.environment
        fields_to_write = partial(field_mask.operation_fields_to_write, context, index)
        with errors_at(path):
            return BatchOperation(path, self._plans[kind](request, fields_to_write))

    def _create_flag(self, request: flag_pb2.CreateFlagRequest, _: FieldsToWrite) -> Plan:
        definition = convert.definition(request)
        return lambda fields: self._flags.plan_creation(fields, definition)

    def _update_flag(self, request: flag_pb2.UpdateFlagRequest, fields_to_write: FieldsToWrite) -> Plan:
        ref, precondition = flag_ref(request.environment, request.name), _precondition(request)
        changes = convert.members(request, fields_to_write(request, FLAG_FIELDS))
        return lambda fields: self._flags.plan_update(
            fields, ref, changes, precondition=precondition, allow_missing=request.allow_missing
        )

    def _delete_flag(self, request: flag_pb2.DeleteFlagRequest, _: FieldsToWrite) -> Plan:
        ref, precondition = flag_ref(request.environment, request.name), _precondition(request)
        return lambda fields: self._flags.plan_deletion(fields, ref, precondition=precondition)


def _create_config(request: config_pb2.CreateConfigRequest, _: FieldsToWrite) -> Plan:
    draft = convert.config_draft(request)
    return lambda fields: plan_creation(fields, draft)


def _update_config(request: config_pb2.UpdateConfigRequest, fields_to_write: FieldsToWrite) -> Plan:
    draft = convert.partial_config_draft(request, fields_to_write(request, CONFIG_FIELDS))
    precondition = _precondition(request)
    return lambda fields: plan_update(fields, draft, precondition=precondition, allow_missing=request.allow_missing)


def _delete_config(request: config_pb2.DeleteConfigRequest, _: FieldsToWrite) -> Plan:
    ref, precondition = ref_of(request), _precondition(request)
    return lambda fields: plan_deletion(fields, ref, precondition=precondition)


def _precondition(
    request: config_pb2.UpdateConfigRequest
    | config_pb2.DeleteConfigRequest
    | flag_pb2.UpdateFlagRequest
    | flag_pb2.DeleteFlagRequest,
) -> Precondition:
    return Precondition(preconditions.etag_field(request))
