"""Operations of a batch, each the request of the call that does it alone."""

from collections.abc import Callable, Sequence
from typing import Any

from configsvc.app.batches import Asked, Planned
from configsvc.app.configs import ConfigStore
from configsvc.app.flags import FlagStore
from configsvc.domain.batches import inside
from configsvc.domain.configs import config_ref
from configsvc.domain.fields import Fields
from configsvc.domain.flags import flag_ref
from configsvc.errors import InvalidInput
from configsvc.rpc import convert
from configsvc.rpc.config_servicer import draft

# What an operation says of itself in place of the batch.
OF_THE_BATCH = ("reason", "request_id")

Plan = Callable[[Fields], Planned]


class Operations:
    """Plans what operations ask for."""

    def __init__(self, configs: ConfigStore, flags: FlagStore) -> None:
        self._configs = configs
        self._flags = flags
        self._plans: dict[str, Callable[[Any], Plan]] = {
            "create_config": self._create_config,
            "update_config": self._update_config,
            "delete_config": self._delete_config,
            "create_flag": self._create_flag,
            "update_flag": self._update_flag,
            "delete_flag": self._delete_flag,
        }

    def asked(self, request: Any) -> Sequence[Asked]:
        """The operations of an ApplyChangesRequest. Raises `InvalidInput` for one that asks for nothing."""
        return [
            self._asked(index, operation, request.environment) for index, operation in enumerate(request.operations)
        ]

    def _asked(self, index: int, operation: Any, environment: str) -> Asked:
        kind = operation.WhichOneof("operation")
        if kind is None:
            raise InvalidInput.of(f"operations[{index}]", f"must have one of {', '.join(self._plans)}")
        path, request = f"operations[{index}].{kind}", getattr(operation, kind)
        for name in OF_THE_BATCH:
            if getattr(request, name):
                raise InvalidInput.of(f"{path}.{name}", "must not be given: the batch has one for all its operations")
        request.environment = request.environment or environment
        with inside(path):
            return Asked(path, self._plans[kind](request))

    def _create_config(self, request: Any) -> Plan:
        wanted = draft(request)
        return lambda fields: self._configs.plan_creation(fields, wanted)

    def _update_config(self, request: Any) -> Plan:
        wanted, etag, missing = draft(request), request.etag, request.allow_missing
        return lambda fields: self._configs.plan_update(fields, wanted, etag=etag, allow_missing=missing)

    def _delete_config(self, request: Any) -> Plan:
        ref, etag = config_ref(request.environment, request.service_name, request.key), request.etag
        return lambda fields: self._configs.plan_deletion(fields, ref, etag=etag)

    def _create_flag(self, request: Any) -> Plan:
        definition = convert.definition(request)
        return lambda fields: self._flags.plan_creation(fields, definition)

    def _update_flag(self, request: Any) -> Plan:
        definition, etag, missing = convert.definition(request), request.etag, request.allow_missing
        return lambda fields: self._flags.plan_update(fields, definition, etag=etag, allow_missing=missing)

    def _delete_flag(self, request: Any) -> Plan:
        ref, etag = flag_ref(request.environment, request.name), request.etag
        return lambda fields: self._flags.plan_deletion(fields, ref, etag=etag)
