"""The use cases of feature flags' definitions. Evaluation is `evaluator`'s."""

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from configsvc_client.evaluation import Flag

from configsvc.app.history import Versioned, Versions
from configsvc.app.watcher import Selector
from configsvc.domain import flags
from configsvc.domain.configs import Decision, not_found
from configsvc.domain.fields import FLAG_NAME_CHARACTERS, checked
from configsvc.domain.flags import flag_ref
from configsvc.domain.json_values import NESTED_LEVELS, digest, is_nested_too_deeply
from configsvc.domain.limits import Limits
from configsvc.domain.pages import Page, page_cursor, page_of
from configsvc.domain.records import Author, Change, Commit, Kind, Record, Ref, Scope, Write
from configsvc.errors import NotFound, StateForbids
from configsvc.storage.port import History, Reader, RecordQuery, Writer


class FlagStore:
    """Flags by (environment, name). `keeps_assignments`: whether sticky flags can be had.

    Every method raises `InvalidInput` with all fields that can't be accepted, and what the ports raise.
    """

    def __init__(
        self, *, writer: Writer, reader: Reader, history: History, limits: Limits, keeps_assignments: bool
    ) -> None:
        self._writer = writer
        self._reader = reader
        self._versions = Versioned(history, reader)
        self._limits = limits
        self._keeps_assignments = keeps_assignments

    async def create(self, definition: Mapping[str, Any], author: Author) -> tuple[Record, int]:
        """Creates a flag from its JSON. Raises `AlreadyExists`."""
        flag = self._read(definition, author)
        decision = flags.creation(flag, secrets.token_hex(8))
        ref = flag_ref(flag.environment, flag.name)
        return _written(await self._write("create", ref, decision, author, flag.to_json()))

    async def get(self, environment: str, name: str) -> tuple[Record, int]:
        """One flag. Raises `NotFound`."""
        ref = self._ref(environment, name)
        view = await self._reader.get((ref,))
        record = view.get(ref)
        if record is None:
            raise not_found(ref)
        return record, view.revision

    async def list(self, environment: str, enabled: bool | None, page_size: int, page_token: str) -> Page[Record]:
        """One page in the order of name; `enabled` None: all."""
        with checked(self._limits) as fields:
            fields.environment(environment)
            page_size = fields.page_size(page_size)
        query = ("flags", environment, enabled)
        cursor = page_cursor(page_token, query, str)
        after = (cursor[0], "") if cursor else None
        found: list[Record] = []
        while True:
            page = await self._reader.page(RecordQuery(Kind.FLAG, environment, limit=page_size, after=after))
            found += [r for r in page.records if enabled is None or r.body["enabled"] == enabled]
            if not page.more or len(found) > page_size:
                break
            after = (page.records[-1].ref.key, "")
        more = len(found) > page_size or (page.more and len(found) == page_size)
        return page_of(
            query,
            found[:page_size],
            token=page_token,
            more=more,
            revision=page.revision,
            history=page.history,
            cursor=lambda record: (record.ref.key,),
        )

    async def update(
        self, definition: Mapping[str, Any], author: Author, *, etag: str = "", allow_missing: bool = False
    ) -> tuple[Record, int]:
        """Replaces a definition whole. Raises `NotFound` unless `allow_missing`, and `StaleEtag`."""
        flag = self._read(definition, author)
        decision = flags.update(flag, secrets.token_hex(8), etag, allow_missing=allow_missing)
        ref = flag_ref(flag.environment, flag.name)
        return _written(await self._write("update", ref, decision, author, [flag.to_json(), etag, allow_missing]))

    async def delete(self, environment: str, name: str, author: Author, *, etag: str = "") -> Change:
        """Deletes a flag; its history stays. Raises `NotFound`, `StaleEtag`, and `StateForbids` for a prerequisite."""
        ref = self._ref(environment, name, author)
        commit = await self._write("delete", ref, flags.deletion(ref, etag), author, [etag])
        return commit.changes[0]

    async def history(self, environment: str, name: str, page_size: int, page_token: str) -> Versions:
        """Versions, newest first, of a live or a deleted flag. Raises `NotFound`."""
        ref = self._ref(environment, name)
        with checked(self._limits) as fields:
            page_size = fields.page_size(page_size)
        return await self._versions.page(ref, page_size, page_token)

    def selector(self, environment: str, names: Sequence[str]) -> Selector:
        """What a watch on flags looks at; no names: all."""
        with checked(self._limits) as fields:
            fields.environment(environment)
            fields.count("names", len(names), self._limits.batch_size)
        return Selector(Kind.FLAG, environment, "", frozenset(names) if names else None, "")

    def _read(self, definition: Mapping[str, Any], author: Author) -> Flag:
        with checked(self._limits) as fields:
            fields.flag_name("name", str(definition.get("name", "")))
            fields.environment(str(definition.get("environment", "")))
            fields.author(author)
            for index, variant in enumerate(definition.get("variants", ())):
                if is_nested_too_deeply(variant.get("value")):
                    fields.refuse(f"variants[{index}].value", f"must not be nested more than {NESTED_LEVELS} deep")
        flag = flags.read(definition)
        if flag.sticky and not self._keeps_assignments:
            raise StateForbids(
                "a sticky flag keeps its assignments in Redis, which this service does not have: set REDIS_HOST,"
                " or leave sticky out",
                "STICKY_NEEDS_REDIS",
                {"flag_name": flag.name},
            )
        return flag

    def _ref(self, environment: str, name: str, author: Author | None = None) -> Ref:
        with checked(self._limits) as fields:
            fields.environment(environment)
            fields.name("name", name, FLAG_NAME_CHARACTERS)
            if author is not None:
                fields.author(author)
        return flag_ref(environment, name)

    async def _write(self, what: str, ref: Ref, decision: Decision, author: Author, content: object) -> Commit:
        fingerprint = digest(what, ref.environment, ref.key, content)
        reads = (ref, Scope(Kind.FLAG, ref.environment))
        return await self._writer.write(Write(author, reads, decision, fingerprint))


def _written(commit: Commit) -> tuple[Record, int]:
    record = commit.changes[0].record
    if record is None:
        raise NotFound("the retried request's flag is gone")
    return record, commit.revision
