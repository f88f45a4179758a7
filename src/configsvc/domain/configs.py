"""Configurations: identity, body, and the decisions of each write. Pure: each decision sees a locked view."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from configsvc.domain.json_values import MISSING, MISSING_VALUE, Json
from configsvc.domain.preconditions import NO_PRECONDITION, Precondition
from configsvc.domain.records import Action, JsonObject, Kind, Mutation, Put, Record, Ref, Remove, View
from configsvc.domain.resources import already_exists, not_found
from configsvc.errors import InvalidInput

Decision = Callable[[View], Sequence[Mutation]]


@dataclass(frozen=True, slots=True)
class ConfigDraft:
    """What a write wants a configuration to be. `value` MISSING and `description` None: as it was."""

    environment: str
    service_name: str
    key: str
    value: Json
    description: str | None = None

    @property
    def ref(self) -> Ref:
        """The configuration's identity."""
        return config_ref(self.environment, self.service_name, self.key)


@dataclass(frozen=True, slots=True)
class ConfigOperation:
    """One write of a batch: a put of `draft`, or with `delete` the removal of its ref, with preconditions."""

    draft: ConfigDraft
    delete: bool = False
    precondition: Precondition = NO_PRECONDITION
    must_not_exist: bool = False


@dataclass(frozen=True, slots=True)
class EffectiveConfig:
    """A value as a service sees it. `record` is its own or the shared one."""

    record: Record
    overrides_shared: bool

    @property
    def held_bytes(self) -> int:
        """See `Record.held_bytes`."""
        return self.record.held_bytes

    @property
    def source(self) -> str:
        """`service` or `shared`."""
        return "service" if self.record.ref.service else "shared"

    @property
    def etag(self) -> str:
        """The opaque tag of what a service sees. The record's own would not do: in a batch, the shared value and the
        service's can get the same, and what is hidden by a value is not a part of its record."""
        return f"{self.record.etag}-{self.source}{'-over-shared' if self.overrides_shared else ''}"


def config_ref(environment: str, service_name: str, key: str) -> Ref:
    """The identity of a configuration."""
    return Ref(Kind.CONFIG, environment, service_name, key)


def body(value: Json, description: str) -> JsonObject:
    """What a record of a configuration holds."""
    return {"value": value, "description": description}


def creation(draft: ConfigDraft) -> Decision:
    """The configuration must not exist."""

    def decide(view: View) -> Sequence[Mutation]:
        if (current := view.get(draft.ref)) is not None:
            raise already_exists(current)
        return (Put(draft.ref, body(draft.value, draft.description or ""), Action.CREATE),)

    return decide


def update(
    draft: ConfigDraft, precondition: Precondition, *, allow_missing: bool, action: Action = Action.UPDATE
) -> Decision:
    """The configuration must exist, unless `allow_missing`, and be as the precondition says."""

    def decide(view: View) -> Sequence[Mutation]:
        current = view.get(draft.ref)
        precondition.check(draft.ref, current)
        if current is None and not (allow_missing or precondition.creates):
            raise not_found(draft.ref)
        before: JsonObject = current.body if current else {"value": MISSING, "description": ""}
        value = before["value"] if draft.value is MISSING else draft.value
        if value is MISSING:
            raise InvalidInput.of("value", MISSING_VALUE)
        description = before["description"] if draft.description is None else draft.description
        created = current is None and action is Action.UPDATE
        return (Put(draft.ref, body(value, description), Action.CREATE if created else action),)

    return decide


def deletion(ref: Ref, precondition: Precondition) -> Decision:
    """The configuration must exist and be as the precondition says."""

    def decide(view: View) -> Sequence[Mutation]:
        current = view.get(ref)
        if current is None:
            raise not_found(ref)
        precondition.check(ref, current)
        return (Remove(ref),)

    return decide


def decision(operation: ConfigOperation) -> Decision:
    """What an operation of a batch is by itself."""
    if operation.delete:
        return deletion(operation.draft.ref, operation.precondition)
    if operation.must_not_exist:
        return creation(operation.draft)
    return update(operation.draft, operation.precondition, allow_missing=True)


def effective(service_name: str, records: Sequence[Record]) -> tuple[EffectiveConfig, ...]:
    """Shared values under the service's own. `records`: both, in the order of (key, service)."""
    shared = {record.ref.key: record for record in records if not record.ref.service}
    own = {record.ref.key: record for record in records if record.ref.service == service_name}
    return tuple(
        EffectiveConfig(own.get(key) or shared[key], key in own and key in shared) for key in sorted({*shared, *own})
    )
