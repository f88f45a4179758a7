"""Short forms of the writes that the storage tests use."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from configsvc.domain.records import Action, Author, Kind, Mutation, Put, Ref, Remove, Scope, View, Write
from configsvc.errors import AlreadyExists, NotFound
from configsvc.storage.port import Log, Storage

NOON = datetime(2026, 3, 4, 12, 0, 0, 123_456, tzinfo=UTC)

StorageFactory = Callable[[], Storage]


def config(key: str, service: str = "", environment: str = "test") -> Ref:
    """A configuration's ref."""
    return Ref(Kind.CONFIG, environment, service, key)


def author(request_id: str = "", *, actor: str = "ann", reason: str = "because", minutes: float = 0) -> Author:
    """Who writes, `minutes` after noon."""
    return Author(actor, reason, request_id, NOON + timedelta(minutes=minutes))


def put(
    ref: Ref, value: Any = 1, *, by: Author | None = None, fingerprint: str = "", action: Action | None = None
) -> Write:
    """Creates or updates."""

    def decide(view: View) -> Sequence[Mutation]:
        usual = Action.UPDATE if view.get(ref) else Action.CREATE
        return [Put(ref, {"value": value}, action or usual)]

    return Write(by or author(), (ref,), decide, fingerprint)


def create(ref: Ref, value: Any = 1, *, by: Author | None = None, fingerprint: str = "") -> Write:
    """Creates, or raises AlreadyExists."""

    def decide(view: View) -> Sequence[Mutation]:
        if view.get(ref):
            raise AlreadyExists(f"{ref.key} exists")
        return [Put(ref, {"value": value}, Action.CREATE)]

    return Write(by or author(), (ref,), decide, fingerprint)


def remove(ref: Ref, *, by: Author | None = None, fingerprint: str = "") -> Write:
    """Deletes, or raises NotFound."""

    def decide(view: View) -> Sequence[Mutation]:
        if view.get(ref) is None:
            raise NotFound(f"no {ref.key}")
        return [Remove(ref)]

    return Write(by or author(), (ref,), decide, fingerprint)


def increment(ref: Ref, *, by: Author | None = None, fingerprint: str = "") -> Write:
    """Adds one to the value; wrong if the view is not locked."""

    def decide(view: View) -> Sequence[Mutation]:
        record = view.get(ref)
        value = record.body["value"] + 1 if record else 1
        return [Put(ref, {"value": value}, Action.UPDATE if record else Action.CREATE)]

    return Write(by or author(), (ref,), decide, fingerprint)


def batch(*mutations: Mutation, by: Author | None = None, reads: tuple[Ref | Scope, ...] | None = None) -> Write:
    """Applies these mutations, whatever the view shows."""
    refs = tuple(mutation.ref for mutation in mutations)
    return Write(by or author(), refs if reads is None else reads, lambda view: mutations)


def raising(error: BaseException, ref: Ref) -> Write:
    """Raises an error in `decide`."""

    def decide(view: View) -> Sequence[Mutation]:
        raise error

    return Write(author(), (ref,), decide)


async def revisions(log: Log) -> list[int]:
    """The revisions of the whole log, one for each change."""
    start = (await log.state()).compacted
    return [change.revision for change in await log.read(start, 1_000_000)]
