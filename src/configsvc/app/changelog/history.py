"""The versions of one record of any kind, newest first, as far as the log still has them.

Compaction removes changes by number and age, of all records alike. The current state of a live record stays, so its
current version can always be shown, compared and rolled back to.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from configsvc.domain.json_values import ABSENT, Absent, Difference, Json, differences
from configsvc.domain.pages import Page, page_cursor, page_of, page_token
from configsvc.domain.records import Action, Change, JsonObject, Record, Ref
from configsvc.domain.resources import error_metadata, location, not_found
from configsvc.errors import FailedPrecondition, NotFound
from configsvc.storage.port import ChangeHistory, ChangePage, ChangeQuery, Reader


@dataclass(frozen=True, slots=True)
class VersionPage:
    """A page of versions. Versions up to `compacted_through`, inclusive, were compacted away (0: none)."""

    page: Page[Change]
    compacted_through: int


@dataclass(frozen=True, slots=True)
class Diff:
    """Two versions, and the part of each that is compared; `ABSENT` for a delete."""

    older: Change
    newer: Change
    before: Json | Absent
    after: Json | Absent

    @property
    def differences(self) -> tuple[Difference, ...]:
        """The steps that turn the older version into the newer one. Slow for large values."""
        return differences(self.before, self.after)


class VersionHistory:
    """The versions of records of any kind."""

    def __init__(self, history: ChangeHistory, reader: Reader) -> None:
        self._history = history
        self._reader = reader

    async def page(self, ref: Ref, page_size: int, token: str) -> VersionPage:
        """One page of a record's versions.

        Raises:
            NotFound: nothing was ever written under this ref; or the record was removed, and its changes were compacted
                away (reason `HISTORY_COMPACTED`).
            InvalidInput: the token is not of this query.
        """
        query = ("versions", ref.kind, ref.environment, ref.service, ref.key)
        cursor = page_cursor(token, query, int, int)
        found = await self._history.search(
            ChangeQuery(
                limit=page_size,
                kind=ref.kind,
                environment=ref.environment,
                service=ref.service,
                key=ref.key,
                before=(cursor[0], cursor[1]) if cursor else None,
            )
        )
        page = change_page(found, query, token)
        if not page.items and cursor is None:
            current = await self._current(ref)
            page = replace(page, items=(current,))
            return VersionPage(page, current.version - 1)
        versions = await self._history.versions(ref) if found.compacted else None
        return VersionPage(page, versions.oldest - 1 if versions else 0)

    async def version(self, ref: Ref, version: int) -> Change:
        """The change that made a version. If the current version's change was compacted away: what the record tells of it.

        Raises:
            NotFound: there is no such version (reason `VERSION_NOT_FOUND`), or it was compacted away
                (`VERSION_COMPACTED`, with `oldest_version` and `current_version` in the metadata).
        """
        change = await self._history.version(ref, version)
        if change is not None:
            return change
        record = (await self._reader.get((ref,))).get(ref)
        if record is not None and record.version == version:
            return _as_change(record)
        versions = await self._history.versions(ref)
        name = f"{ref.kind} '{ref.key}'{location(ref)}"
        metadata = {**error_metadata(ref), "version": str(version)}
        if versions is None or version > versions.newest:
            raise NotFound(f"{name} has no version {version}", "VERSION_NOT_FOUND", metadata)
        oldest = min(versions.oldest, versions.newest) if record is not None else versions.oldest
        newest = versions.newest
        left = f"versions {oldest} to {newest} are left" if oldest <= newest else "no version is left"
        raise NotFound(
            f"version {version} of {name} was compacted away; {left}",
            "VERSION_COMPACTED",
            {**metadata, "oldest_version": str(oldest), "current_version": str(newest)},
        )

    async def state(self, ref: Ref, version: int) -> JsonObject:
        """The body that a version held, for a rollback.

        Raises:
            NotFound: as `version` does.
            FailedPrecondition: the version is a delete (reason `VERSION_IS_DELETE`).
        """
        change = await self.version(ref, version)
        if change.after is None:
            raise FailedPrecondition(
                f"version {version} of {ref.kind} '{ref.key}' is a delete: there is no value to go back to",
                "VERSION_IS_DELETE",
                error_metadata(ref),
            )
        return change.after

    async def diff(self, ref: Ref, older: int, newer: int, content: Callable[[JsonObject], Json]) -> Diff:
        """Compares the `content` of two versions; `newer` 0 is the newest. A delete has none. Raises `NotFound`."""
        first = await self.version(ref, older)
        second = await (self.version(ref, newer) if newer else self.newest(ref))
        sides = [ABSENT if change.after is None else content(change.after) for change in (first, second)]
        return Diff(first, second, *sides)

    async def newest(self, ref: Ref) -> Change:
        """The newest version. Raises `NotFound`, as `page` does."""
        return (await self.page(ref, 1, "")).page.items[0]

    async def _current(self, ref: Ref) -> Change:
        record = (await self._reader.get((ref,))).get(ref)
        if record is not None:
            return _as_change(record)
        if await self._history.versions(ref) is None:
            raise not_found(ref)
        raise NotFound(
            f"{ref.kind} '{ref.key}'{location(ref)} was deleted, and its history was compacted away",
            "HISTORY_COMPACTED",
            error_metadata(ref),
        )


def change_page(found: ChangePage, query: tuple[Any, ...], token: str) -> Page[Change]:
    """A page of changes that was read from `token`, with the tokens that continue it."""
    page = page_of(
        query,
        found.changes,
        token=token,
        more=found.more and found.examined is None,
        revision=found.revision,
        history=found.history,
        cursor=lambda change: (change.revision, change.ordinal),
    )
    if found.examined is None:
        return page
    return replace(page, next_page_token=page_token(query, found.history, found.examined))


def _as_change(record: Record) -> Change:
    """The change that made a live record's version, as far as the record tells."""
    return Change(
        revision=record.revision,
        ordinal=0,
        ref=record.ref,
        action=Action.CREATE if record.is_new else Action.UPDATE,
        version=record.version,
        before=None,
        after=record.body,
        before_revision=0,
        created_at=record.created_at,
        actor=record.updated_by,
        reason="",
        request_id="",
        at=record.updated_at,
        history=record.history,
        after_bytes=record.held_bytes,
    )
