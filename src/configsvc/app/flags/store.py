"""The use cases of the definitions of feature flags; `evaluator` has the ones of evaluation."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from configsvc_client.evaluation import Flag

from configsvc.app.batches import PlannedWrite, no_mutations
from configsvc.app.changelog.history import Diff, VersionHistory, VersionPage
from configsvc.app.watch.selector import Selector
from configsvc.domain import flags, pages
from configsvc.domain.decisions import deletion
from configsvc.domain.fields import FLAG_NAME_CHARACTERS, Fields, checked
from configsvc.domain.fingerprints import fingerprint
from configsvc.domain.flag_filter import FlagFilter
from configsvc.domain.flag_rollback import rollback
from configsvc.domain.flags import flag_ref
from configsvc.domain.json_values import NESTED_LEVELS, is_nested_too_deeply
from configsvc.domain.limits import Limits
from configsvc.domain.pages import Page, page_cursor, page_of
from configsvc.domain.preconditions import NO_PRECONDITION, Precondition
from configsvc.domain.prerequisites import with_prerequisite_check
from configsvc.domain.records import AtRevision, Author, Change, Decision, Kind, Record, Ref, Write
from configsvc.domain.resources import not_found
from configsvc.errors import FailedPrecondition
from configsvc.storage.port import READ_BYTES, ChangeHistory, Reader, RecordQuery, Writer

# Flags in one read of a filtered list, and in all reads of one call. Each flag took 40 µs of CPU (with ten targeted users,
# from SQLite).
READ_FLAGS = 250
SCANNED_FLAGS = 2_000


class FlagStore:
    """Flags by (environment, name). `keeps_assignments`: whether there is a cache for the assignments of sticky flags.

    Every method raises `InvalidInput` with all fields that can't be accepted, and what the ports raise.
    """

    def __init__(
        self, *, writer: Writer, reader: Reader, history: ChangeHistory, limits: Limits, keeps_assignments: bool
    ) -> None:
        self._writer = writer
        self._reader = reader
        self._versions = VersionHistory(history, reader)
        self._limits = limits
        self._keeps_assignments = keeps_assignments

    async def create(self, definition: Mapping[str, Any], author: Author) -> Change:
        """Creates a flag from its JSON. Raises `AlreadyExists`."""
        flag = self._read(definition, author)
        decision = with_prerequisite_check(flags.creation(flag, secrets.token_hex(8)))
        ref = flag_ref(flag.environment, flag.name)
        return await self._write("create", ref, decision, author, flag.to_json())

    async def get(self, environment: str, name: str) -> AtRevision[Record]:
        """One flag. Raises `NotFound`."""
        ref = self._ref(environment, name)
        view = await self._reader.get((ref,))
        record = view.get(ref)
        if record is None:
            raise not_found(ref)
        return AtRevision(record, view.revision)

    async def list(self, environment: str, flag_filter: FlagFilter, page_size: int, page_token: str) -> Page[Record]:
        """One page in the order of name.

        A call reads at most `SCANNED_FLAGS` flags. So if few flags match the filter, a page may be short or empty, and
        still be followed by another.
        """
        with checked(self._limits) as fields:
            fields.environment(environment)
            flag_filter.check(fields)
            page_size = fields.page_size(page_size)
        query = ("flags", environment, *flag_filter.query)
        cursor = page_cursor(page_token, query, str)
        after = (cursor[0], "") if cursor else None
        matching: list[Record] = []
        scanned, revision, history, more = 0, 0, "", True
        while more and len(matching) < page_size and scanned < SCANNED_FLAGS:
            limit = page_size if flag_filter.is_all else READ_FLAGS
            record_query = RecordQuery(Kind.FLAG, environment, limit=limit, after=after, max_bytes=READ_BYTES)
            records = await self._reader.page(record_query)
            revision, history = revision or records.revision, history or records.history
            matching += filter(flag_filter.matches, records.records)
            scanned += len(records.records)
            more = records.more
            after = _position(records.records[-1]) if records.records else after
            if matching and more and len(records.records) < limit:
                # The read was cut by its bytes: a longer page would not fit into an answer.
                break
        page = page_of(
            query,
            matching[:page_size],
            token=page_token,
            more=False,
            revision=revision,
            history=history,
            cursor=lambda record: (record.ref.key,),
        )
        if len(matching) > page_size:
            return replace(page, next_page_token=page.token_after(page.items[-1]))
        return replace(page, next_page_token=pages.page_token(query, history, after[:1])) if more and after else page

    async def update(
        self,
        ref: Ref,
        changes: Mapping[str, Any],
        author: Author,
        *,
        precondition: Precondition = NO_PRECONDITION,
        allow_missing: bool = False,
    ) -> Change:
        """Writes these members of the definition; all others stay. With `allow_missing` a missing flag is created from them.

        Raises `NotFound` unless `allow_missing`, and `StaleEtag`.
        """
        self._check_request({"environment": ref.environment, "name": ref.key, **changes}, author)
        decision = with_prerequisite_check(
            flags.update(ref, changes, secrets.token_hex(8), precondition, allow_missing=allow_missing)
        )
        content = [dict(changes), precondition.content, allow_missing]
        return await self._write("update", ref, decision, author, content)

    async def delete(self, ref: Ref, author: Author, *, precondition: Precondition = NO_PRECONDITION) -> Change:
        """Deletes a flag; its history stays. Raises `NotFound`, `StaleEtag`, and `FailedPrecondition` for a prerequisite."""
        self._ref(ref.environment, ref.key, author)
        decision = with_prerequisite_check(deletion(ref, precondition))
        return await self._write("delete", ref, decision, author, [precondition.content])

    def plan_creation(self, fields: Fields, definition: Mapping[str, Any]) -> PlannedWrite:
        """`create` as an operation of a batch."""
        self._check(fields, definition)
        self._check_sticky(str(definition["name"]), sticky=bool(definition["sticky"]))
        decide: Decision = no_mutations
        with fields.collecting():
            decide = flags.creation(flags.parse(definition), secrets.token_hex(8))
        return PlannedWrite(_ref_of(definition), decide, ["create", dict(definition)])

    def plan_update(
        self,
        fields: Fields,
        ref: Ref,
        changes: Mapping[str, Any],
        *,
        precondition: Precondition = NO_PRECONDITION,
        allow_missing: bool = False,
    ) -> PlannedWrite:
        """`update` as an operation of a batch."""
        self._check(fields, {"environment": ref.environment, "name": ref.key, **changes})
        self._check_sticky(ref.key, sticky=bool(changes.get("sticky")))
        decision = flags.update(ref, changes, secrets.token_hex(8), precondition, allow_missing=allow_missing)
        return PlannedWrite(ref, decision, ["update", dict(changes), precondition.content, allow_missing])

    def plan_deletion(self, fields: Fields, ref: Ref, *, precondition: Precondition = NO_PRECONDITION) -> PlannedWrite:
        """`delete` as an operation of a batch."""
        self._identity(fields, ref.environment, ref.key)
        return PlannedWrite(ref, deletion(ref, precondition), ["delete", precondition.content])

    async def rollback(
        self, ref: Ref, version: int, author: Author, *, precondition: Precondition = NO_PRECONDITION
    ) -> Change:
        """Writes the definition of an earlier version again, as a new version; brings a deleted flag back.

        Raises:
            NotFound: there is no such version, or its change was compacted away.
            FailedPrecondition: the version is a delete, or the current flags forbid its definition.
        """
        with checked(self._limits) as fields:
            self._identity(fields, ref.environment, ref.key)
            fields.author(author)
            fields.version("version", version)
        definition = await self._versions.state(ref, version)
        self._check_sticky(ref.key, sticky=bool(definition.get("sticky")))
        decision = rollback(ref, version, definition, secrets.token_hex(8), precondition)
        return await self._write("rollback", ref, decision, author, [version, precondition.content])

    async def diff(self, environment: str, name: str, from_version: int, to_version: int) -> Diff:
        """Compares two versions; `to_version` 0 is the newest. A delete has no definition. Raises `NotFound`."""
        with checked(self._limits) as fields:
            self._identity(fields, environment, name)
            fields.version("from_version", from_version)
            fields.version("to_version", to_version, least=0)
        return await self._versions.diff(flag_ref(environment, name), from_version, to_version, flags.definition_of)

    async def history(self, environment: str, name: str, page_size: int, page_token: str) -> VersionPage:
        """Versions, newest first, of a live or a deleted flag. Raises `NotFound`."""
        ref = self._ref(environment, name)
        with checked(self._limits) as fields:
            page_size = fields.page_size(page_size)
        return await self._versions.page(ref, page_size, page_token)

    def selector(self, environment: str, names: Sequence[str]) -> Selector:
        """The selector of a watch on flags; no names: all."""
        with checked(self._limits) as fields:
            fields.environment(environment)
            fields.count("names", len(names), self._limits.batch_size)
        return Selector(Kind.FLAG, environment, "", frozenset(names) if names else None, "")

    def _read(self, definition: Mapping[str, Any], author: Author) -> Flag:
        self._check_request(definition, author)
        return flags.parse(definition)

    def _check_request(self, definition: Mapping[str, Any], author: Author) -> None:
        with checked(self._limits) as fields:
            self._check(fields, definition)
            fields.author(author)
        self._check_sticky(str(definition.get("name", "")), sticky=bool(definition.get("sticky")))

    def _check(self, fields: Fields, definition: Mapping[str, Any]) -> None:
        """Checks a definition, or a part of one, for what can be checked before the rest of the flag is known."""
        fields.flag_name("name", str(definition.get("name", "")))
        fields.environment(str(definition.get("environment", "")))
        for index, variant in enumerate(definition.get("variants", ())):
            if is_nested_too_deeply(variant.get("value")):
                fields.refuse(f"variants[{index}].value", f"must not be nested more than {NESTED_LEVELS} deep")

    def _check_sticky(self, name: str, *, sticky: bool) -> None:
        if sticky and not self._keeps_assignments:
            raise FailedPrecondition(
                "a sticky flag keeps its assignments in Redis, which this service does not have: set REDIS_HOST,"
                " or leave sticky out",
                "STICKY_NEEDS_REDIS",
                {"flag_name": name},
            )

    def _ref(self, environment: str, name: str, author: Author | None = None) -> Ref:
        with checked(self._limits) as fields:
            self._identity(fields, environment, name)
            if author is not None:
                fields.author(author)
        return flag_ref(environment, name)

    def _identity(self, fields: Fields, environment: str, name: str) -> None:
        fields.environment(environment)
        fields.name("name", name, FLAG_NAME_CHARACTERS)

    async def _write(self, what: str, ref: Ref, decision: Decision, author: Author, content: object) -> Change:
        write = Write(author, (ref,), decision, fingerprint(author, what, ref.environment, ref.key, content))
        return (await self._writer.write(write)).changes[0]


def _position(record: Record) -> tuple[str, str]:
    return (record.ref.key, record.ref.service)


def _ref_of(definition: Mapping[str, Any]) -> Ref:
    return flag_ref(str(definition.get("environment", "")), str(definition.get("name", "")))
