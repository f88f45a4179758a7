"""Configurations: identity, body, and the decisions of each write. Pure: each decision sees a locked view."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from configsvc.domain.json_values import Json
from configsvc.domain.records import Action, JsonObject, Kind, Mutation, Put, Record, Ref, Remove, View
from configsvc.errors import AlreadyExists, NotFound, ServiceError, StaleEtag

Decision = Callable[[View], Sequence[Mutation]]


@dataclass(frozen=True, slots=True)
class Draft:
    """What a write wants a configuration to be. `description` None: as it was."""

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
class Operation:
    """One write of a batch: a put of `draft`, or with `delete` the removal of its ref, with preconditions."""

    draft: Draft
    delete: bool = False
    etag: str = ""
    must_not_exist: bool = False


@dataclass(frozen=True, slots=True)
class Effective:
    """A value as a service sees it. `record` is its own or the shared one."""

    record: Record
    overrides_shared: bool

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


def creation(draft: Draft) -> Decision:
    """The configuration must not exist."""

    def decide(view: View) -> Sequence[Mutation]:
        if (current := view.get(draft.ref)) is not None:
            raise already_exists(current)
        return (Put(draft.ref, body(draft.value, draft.description or ""), Action.CREATE),)

    return decide


def update(draft: Draft, etag: str, *, allow_missing: bool, action: Action = Action.UPDATE) -> Decision:
    """The configuration must exist, unless `allow_missing`, and have this etag where one is given."""

    def decide(view: View) -> Sequence[Mutation]:
        current = view.get(draft.ref)
        if current is None and (etag or not allow_missing):
            raise not_found(draft.ref)
        check_etag(draft.ref, current, etag)
        description = draft.description
        if description is None:
            description = current.body["description"] if current else ""
        created = current is None and action is Action.UPDATE
        return (Put(draft.ref, body(draft.value, description), Action.CREATE if created else action),)

    return decide


def deletion(ref: Ref, etag: str) -> Decision:
    """The configuration must exist and have this etag where one is given."""

    def decide(view: View) -> Sequence[Mutation]:
        current = view.get(ref)
        if current is None:
            raise not_found(ref)
        check_etag(ref, current, etag)
        return (Remove(ref),)

    return decide


def batch(operations: Sequence[Operation]) -> Decision:
    """All of them or none; an error names the operation that it is about."""

    def single(operation: Operation) -> Decision:
        if operation.delete:
            return deletion(operation.draft.ref, operation.etag)
        if operation.must_not_exist:
            return creation(operation.draft)
        return update(operation.draft, operation.etag, allow_missing=True)

    def decide(view: View) -> Sequence[Mutation]:
        mutations: list[Mutation] = []
        for index, operation in enumerate(operations):
            try:
                mutations.extend(single(operation)(view))
            except ServiceError as error:
                error.metadata = {**error.metadata, "operation": f"operations[{index}]"}
                raise
        return mutations

    return decide


def effective(service_name: str, records: Sequence[Record]) -> tuple[Effective, ...]:
    """Shared values under the service's own. `records`: both, in the order of (key, service)."""
    shared = {record.ref.key: record for record in records if not record.ref.service}
    own = {record.ref.key: record for record in records if record.ref.service == service_name}
    return tuple(
        Effective(own.get(key) or shared[key], key in own and key in shared) for key in sorted({*shared, *own})
    )


def check_etag(ref: Ref, current: Record | None, etag: str) -> None:
    """Raises `StaleEtag` where an etag is given and is not the current one. `*`: anything that exists."""
    if etag and current is not None and etag not in ("*", current.etag):
        raise StaleEtag(
            f"{ref.kind} '{ref.key}' has changed since it was read: its etag is {current.etag}, not {etag}",
            metadata={**named(ref), "etag": current.etag},
        )


def not_found(ref: Ref) -> NotFound:
    """The error for a missing record of any kind."""
    return NotFound(f"{ref.kind} '{ref.key}'{place(ref)} does not exist", f"{ref.kind.upper()}_NOT_FOUND", named(ref))


def already_exists(record: Record) -> AlreadyExists:
    """The error for a record of any kind that should not be there."""
    ref = record.ref
    return AlreadyExists(
        f"{ref.kind} '{ref.key}'{place(ref)} exists, in version {record.version}",
        f"{ref.kind.upper()}_ALREADY_EXISTS",
        {**named(ref), "etag": record.etag},
    )


def place(ref: Ref) -> str:
    """Where a record belongs, for messages."""
    of_service = f" of service '{ref.service}'" if ref.service else ""
    return of_service + (f" in environment '{ref.environment}'" if ref.environment else "")


def named(ref: Ref) -> dict[str, str]:
    """A record's identity as error metadata."""
    return {
        name: part
        for name, part in (("environment", ref.environment), ("service_name", ref.service), ("key", ref.key))
        if part
    }
