"""Operations of a batch, each the request of the call that does it alone."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from configsvc.app.batches import BatchOperation, PlannedWrite
from configsvc.app.configs.store import ConfigStore
from configsvc.app.flags.store import FlagStore
from configsvc.domain.batches import errors_at
from configsvc.domain.configs import config_ref
from configsvc.domain.fields import Fields
from configsvc.domain.flags import flag_ref
from configsvc.domain.preconditions import Precondition
from configsvc.errors import InvalidInput
from configsvc.rpc import convert
from configsvc.rpc.requests import field_mask, preconditions
from configsvc.rpc.servicers import configs as config_servicer
from configsvc.rpc.servicers import flags as flag_servicer
from configsvc.rpc.servicers.configs import draft, partial_draft

# What an operation says of itself in place of the batch.
OF_THE_BATCH = ("reason", "request_id")

Plan = Callable[[Fields], PlannedWrite]
# The fields that an operation writes, of those that can be written.
Named = Callable[[Any, Sequence[str]], frozenset[str]]


class OperationPlanner:
    """Plans what operations ask for."""

    def __init__(self, configs: ConfigStore, flags: FlagStore) -> None:
        self._configs = configs
        self._flags = flags
        self._plans: dict[str, Callable[[Any, Named], Plan]] = {
            "create_config": self._create_config,
            "update_config": self._update_config,
            "delete_config": self._delete_config,
            "create_flag": self._create_flag,
            "update_flag": self._update_flag,
            "delete_flag": self._delete_flag,
        }

    def asked(self, context: Any, request: Any) -> Sequence[BatchOperation]:
        """The operations of an ApplyChangesRequest. Raises `InvalidInput` if one can't be understood."""
        preconditions.refuse_headers(context)
        return [self._asked(context, request, index) for index in range(len(request.operations))]

    def _asked(self, context: Any, batch: Any, index: int) -> BatchOperation:
        operation = batch.operations[index]
        kind = operation.WhichOneof("operation")
        if kind is None:
            raise InvalidInput.of(f"operations[{index}]", f"must have one of {', '.join(self._plans)}")
        path, request = f"operations[{index}].{kind}", getattr(operation, kind)
        for name in OF_THE_BATCH:
            if getattr(request, name):
                raise InvalidInput.of(f"{path}.{name}", "must not be given: the batch has one for all its operations")
        request.environment = request.environment or batch.environment
        with errors_at(path):
            return BatchOperation(
                path, self._plans[kind](request, partial(field_mask.operation_fields_to_write, context, index))
            )

    def _create_config(self, request: Any, _: Named) -> Plan:
        wanted = draft(request)
        return lambda fields: self._configs.plan_creation(fields, wanted)

    def _update_config(self, request: Any, named: Named) -> Plan:
        wanted = partial_draft(request, named(request, config_servicer.WRITABLE))
        asked, missing = _precondition(request), request.allow_missing
        return lambda fields: self._configs.plan_update(fields, wanted, precondition=asked, allow_missing=missing)

    def _delete_config(self, request: Any, _: Named) -> Plan:
        ref, asked = config_ref(request.environment, request.service_name, request.key), _precondition(request)
        return lambda fields: self._configs.plan_deletion(fields, ref, precondition=asked)

    def _create_flag(self, request: Any, _: Named) -> Plan:
        definition = convert.definition(request)
        return lambda fields: self._flags.plan_creation(fields, definition)

    def _update_flag(self, request: Any, named: Named) -> Plan:
        ref, asked, missing = flag_ref(request.environment, request.name), _precondition(request), request.allow_missing
        changes = convert.members(request, named(request, flag_servicer.WRITABLE))
        return lambda fields: self._flags.plan_update(fields, ref, changes, precondition=asked, allow_missing=missing)

    def _delete_flag(self, request: Any, _: Named) -> Plan:
        ref, asked = flag_ref(request.environment, request.name), _precondition(request)
        return lambda fields: self._flags.plan_deletion(fields, ref, precondition=asked)


def _precondition(request: Any) -> Precondition:
    return Precondition(preconditions.etag_field(request))
