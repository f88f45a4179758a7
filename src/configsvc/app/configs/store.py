"""The use cases of configuration: check the request, then one read or one write."""

from collections.abc import Sequence
from dataclasses import dataclass

from configsvc.app.batches import PlannedWrite
from configsvc.app.changelog.history import Diff, VersionHistory, VersionPage
from configsvc.app.configs.near_cache import NearCache
from configsvc.app.watch.watcher import Selector
from configsvc.domain import configs
from configsvc.domain.batches import Step, all_or_none
from configsvc.domain.configs import ConfigDraft, ConfigOperation, Decision, EffectiveConfig, config_ref
from configsvc.domain.fields import Fields, checked
from configsvc.domain.json_values import MISSING, digest, problem
from configsvc.domain.limits import LARGEST_KEY_CHARACTERS, Limits
from configsvc.domain.pages import Page, page_cursor, page_of
from configsvc.domain.preconditions import NO_PRECONDITION, Precondition
from configsvc.domain.records import Action, AtRevision, Author, Change, Commit, Kind, Record, Ref, Write
from configsvc.domain.resources import not_found
from configsvc.domain.sizes import ANSWER_BYTES
from configsvc.storage.port import READ_BYTES, ChangeHistory, Reader, RecordQuery, Writer


@dataclass(frozen=True, slots=True)
class BulkRead:
    """What was asked for by many keys, in the order asked, at one revision.

    `not_read`: the keys of what was not looked at any more, since no answer could have it.
    """

    found: tuple[Record, ...]
    missing: tuple[str, ...]
    revision: int
    not_read: tuple[str, ...] = ()


class ConfigStore:
    """Configuration values by (environment, service, key); an empty service means shared by all.

    Every method raises `InvalidInput` with all fields that can't be accepted, and what the ports raise.
    """

    def __init__(
        self, *, writer: Writer, reader: Reader, history: ChangeHistory, near_cache: NearCache, limits: Limits
    ) -> None:
        self._writer = writer
        self._reader = reader
        self._versions = VersionHistory(history, reader)
        self._near_cache = near_cache
        self._limits = limits

    async def create(self, draft: ConfigDraft, author: Author) -> Change:
        """Creates a configuration. Raises `AlreadyExists`."""
        self._check(draft, author)
        return await self._write("create", draft.ref, configs.creation(draft), author, _content(draft))

    async def get(self, environment: str, service_name: str, key: str) -> AtRevision[Record]:
        """One configuration, exactly this service's. Raises `NotFound`."""
        ref = self._ref(environment, service_name, key)
        view = await self._near_cache.get((ref,))
        record = view.get(ref)
        if record is None:
            raise not_found(ref)
        return AtRevision(record, view.revision)

    async def list(
        self,
        environment: str,
        service_name: str | None,
        keys: Sequence[str],
        prefix: str,
        page_size: int,
        page_token: str,
    ) -> Page[Record]:
        """One page in the order of (key, service). `service_name` None: every service; no `keys`: all."""
        with checked(self._limits) as fields:
            self._filters(fields, environment, service_name, keys, prefix)
            page_size = fields.page_size(page_size)
        services = None if service_name is None else (service_name,)
        return await self._page(environment, services, tuple(keys), prefix, page_size, page_token)

    async def update(
        self,
        draft: ConfigDraft,
        author: Author,
        *,
        precondition: Precondition = NO_PRECONDITION,
        allow_missing: bool = False,
    ) -> Change:
        """Writes the value, the description or both. Raises `NotFound` unless `allow_missing`, and `StaleEtag`."""
        with checked(self._limits) as fields:
            self._identity(fields, draft.environment, draft.service_name, draft.key, written=True)
            self._contents(fields, "", draft, partial=True)
            fields.author(author)
        decision = configs.update(draft, precondition, allow_missing=allow_missing)
        content = [*_content(draft), precondition.content, allow_missing]
        return await self._write("update", draft.ref, decision, author, content)

    async def delete(self, ref: Ref, author: Author, *, precondition: Precondition = NO_PRECONDITION) -> Change:
        """Deletes a configuration; its history stays. Raises `NotFound` and `StaleEtag`."""
        self._ref(ref.environment, ref.service, ref.key, author)
        decision = configs.deletion(ref, precondition)
        return await self._write("delete", ref, decision, author, [precondition.content])

    async def history(
        self, environment: str, service_name: str, key: str, page_size: int, page_token: str
    ) -> VersionPage:
        """Versions, newest first, of a live or a deleted configuration. Raises `NotFound`."""
        with checked(self._limits) as fields:
            self._identity(fields, environment, service_name, key)
            page_size = fields.page_size(page_size)
        return await self._versions.page(config_ref(environment, service_name, key), page_size, page_token)

    async def bulk(self, environment: str, service_name: str, keys: Sequence[str]) -> BulkRead:
        """Many configurations as they stood together, and which keys are missing."""
        with checked(self._limits) as fields:
            fields.environment(environment)
            fields.service(service_name)
            fields.count("keys", len(keys), self._limits.batch_size, least=1)
            for index, key in enumerate(keys[: self._limits.batch_size]):
                fields.key(key, f"keys[{index}]")
            if (size := sum(len(key.encode("utf-8", "surrogatepass")) for key in keys)) > ANSWER_BYTES // 2:
                fields.refuse("keys", f"must be at most {ANSWER_BYTES // 2} bytes together; they have {size}")
        refs = {key: config_ref(environment, service_name, key) for key in keys}
        view, left_out = await self._near_cache.first(tuple(refs.values()), READ_BYTES)
        looked_at = {key: ref for key, ref in refs.items() if ref not in left_out}
        return BulkRead(
            tuple(record for ref in looked_at.values() if (record := view.get(ref)) is not None),
            tuple(key for key, ref in looked_at.items() if view.get(ref) is None),
            view.revision,
            tuple(key for key, ref in refs.items() if ref in left_out),
        )

    async def effective(
        self, environment: str, service_name: str, prefix: str, page_size: int, page_token: str
    ) -> Page[EffectiveConfig]:
        """One page of all values as a service sees them, in the order of key."""
        with checked(self._limits) as fields:
            fields.environment(environment)
            fields.service(service_name, required=True)
            fields.text("prefix", prefix, LARGEST_KEY_CHARACTERS)
            page_size = fields.page_size(page_size or self._limits.page_size)
        # A key takes up to two records. One more than asked tells whether the last key's pair is complete.
        query = ("effective", environment, service_name, prefix)
        cursor = page_cursor(page_token, query, str)
        found = await self._reader.page(
            RecordQuery(
                Kind.CONFIG,
                environment,
                limit=2 * page_size + 1,
                services=("", service_name),
                prefix=prefix,
                after=(cursor[0], service_name) if cursor else None,
                max_bytes=READ_BYTES,
            )
        )
        merged = configs.effective(service_name, found.records)
        more = found.more or len(merged) > page_size
        return page_of(
            query,
            merged[:page_size],
            token=page_token,
            more=more,
            revision=found.revision,
            history=found.history,
            cursor=lambda one: (one.record.ref.key,),
        )

    async def effective_value(self, environment: str, service_name: str, key: str) -> AtRevision[EffectiveConfig]:
        """One value as a service sees it. Raises `NotFound` if the service has none of its own, and none is shared."""
        with checked(self._limits) as fields:
            fields.key(key)
            fields.environment(environment)
            fields.service(service_name, required=True)
        refs = (config_ref(environment, service_name, key), config_ref(environment, "", key))
        view = await self._near_cache.get(refs)
        found = configs.effective(service_name, [record for ref in refs if (record := view.get(ref)) is not None])
        if not found:
            raise not_found(refs[0])
        return AtRevision(found[0], view.revision)

    def plan_creation(self, fields: Fields, draft: ConfigDraft) -> PlannedWrite:
        """`create` as an operation of a batch."""
        self._identity(fields, draft.environment, draft.service_name, draft.key)
        self._contents(fields, "", draft)
        return PlannedWrite(draft.ref, configs.creation(draft), ["create", draft.service_name, _content(draft)])

    def plan_update(
        self,
        fields: Fields,
        draft: ConfigDraft,
        *,
        precondition: Precondition = NO_PRECONDITION,
        allow_missing: bool = False,
    ) -> PlannedWrite:
        """`update` as an operation of a batch."""
        self._identity(fields, draft.environment, draft.service_name, draft.key)
        self._contents(fields, "", draft, partial=True)
        decision = configs.update(draft, precondition, allow_missing=allow_missing)
        content = ["update", draft.service_name, _content(draft), precondition.content, allow_missing]
        return PlannedWrite(draft.ref, decision, content)

    def plan_deletion(self, fields: Fields, ref: Ref, *, precondition: Precondition = NO_PRECONDITION) -> PlannedWrite:
        """`delete` as an operation of a batch."""
        self._identity(fields, ref.environment, ref.service, ref.key)
        return PlannedWrite(ref, configs.deletion(ref, precondition), ["delete", ref.service, precondition.content])

    async def batch_write(self, environment: str, operations: Sequence[ConfigOperation], author: Author) -> Commit:
        """All operations in one revision, or none. Raises what the first that can't be done raises alone."""
        with checked(self._limits) as fields:
            fields.author(author)
            fields.environment(environment)
            fields.count("operations", len(operations), self._limits.batch_size, least=1)
            for index, operation in enumerate(operations[: self._limits.batch_size]):
                self._operation(fields, f"operations[{index}]", operation)
            seen: set[Ref] = set()
            for index, operation in enumerate(operations[: self._limits.batch_size]):
                if operation.draft.ref in seen:
                    fields.refuse(f"operations[{index}].key", "must appear once in a batch")
                seen.add(operation.draft.ref)
            if (size := _batch_answer_bytes(operations, author)) > ANSWER_BYTES:
                fields.refuse(
                    "operations", f"must have keys that fit into an answer of {ANSWER_BYTES} bytes; it has {size}"
                )
        content = [
            [*_content(o.draft), o.draft.key, o.draft.service_name, o.delete, o.precondition.content, o.must_not_exist]
            for o in operations
        ]
        steps = [
            Step(f"operations[{index}]", operation.draft.ref, configs.decision(operation))
            for index, operation in enumerate(operations)
        ]
        fingerprint = digest("batch", environment, content)
        return await self._writer.write(
            Write(author, tuple(step.ref for step in steps), all_or_none(steps), fingerprint)
        )

    async def rollback(
        self, ref: Ref, version: int, author: Author, *, precondition: Precondition = NO_PRECONDITION
    ) -> Change:
        """Writes what an earlier version held, as a new version; brings a deleted key back.

        Raises:
            NotFound: there is no such version, or its change was compacted away.
            FailedPrecondition: the version is a delete.
        """
        with checked(self._limits) as fields:
            self._identity(fields, ref.environment, ref.service, ref.key)
            fields.author(author)
            fields.version("version", version)
        body = await self._versions.state(ref, version)
        draft = ConfigDraft(ref.environment, ref.service, ref.key, body["value"], body["description"])
        decision = configs.update(draft, precondition, allow_missing=True, action=Action.ROLLBACK)
        return await self._write("rollback", ref, decision, author, [version, precondition.content])

    async def diff(self, environment: str, service_name: str, key: str, from_version: int, to_version: int) -> Diff:
        """Compares two versions; `to_version` 0 is the newest. A delete has no value. Raises `NotFound`."""
        with checked(self._limits) as fields:
            self._identity(fields, environment, service_name, key)
            fields.version("from_version", from_version)
            fields.version("to_version", to_version, least=0)
        ref = config_ref(environment, service_name, key)
        return await self._versions.diff(ref, from_version, to_version, lambda body: body["value"])

    def selector(self, environment: str, service_name: str | None, keys: Sequence[str], prefix: str) -> Selector:
        """What a watch on configurations looks at; the same filters as `list`."""
        with checked(self._limits) as fields:
            self._filters(fields, environment, service_name, keys, prefix)
        return Selector(Kind.CONFIG, environment, service_name, frozenset(keys) if keys else None, prefix)

    def _check(self, draft: ConfigDraft, author: Author) -> None:
        with checked(self._limits) as fields:
            self._identity(fields, draft.environment, draft.service_name, draft.key, written=True)
            self._contents(fields, "", draft)
            fields.author(author)

    def _operation(self, fields: Fields, path: str, operation: ConfigOperation) -> None:
        fields.key(operation.draft.key, f"{path}.key", written=not operation.delete)
        if operation.draft.service_name:
            fields.name(f"{path}.service_name", operation.draft.service_name, 128, required=False)
        if operation.delete and operation.must_not_exist:
            fields.refuse(f"{path}.must_not_exist", "must not be given with delete")
        if operation.precondition.match is not None and operation.must_not_exist:
            fields.refuse(f"{path}.must_not_exist", "must not be given with etag")
        if not operation.delete:
            self._contents(fields, f"{path}.", operation.draft, partial=not operation.must_not_exist)

    def _contents(self, fields: Fields, path: str, draft: ConfigDraft, *, partial: bool = False) -> None:
        stays = partial and draft.value is MISSING and draft.description is not None
        wrong = "" if stays else problem(draft.value, self._limits.value_bytes)
        if wrong:
            fields.refuse(f"{path}value", wrong)
        fields.text(f"{path}description", draft.description or "", self._limits.description_characters)

    def _identity(
        self, fields: Fields, environment: str, service_name: str, key: str, *, written: bool = False
    ) -> None:
        fields.key(key, written=written)
        fields.environment(environment)
        fields.service(service_name)

    def _filters(
        self, fields: Fields, environment: str, service_name: str | None, keys: Sequence[str], prefix: str
    ) -> None:
        fields.environment(environment)
        fields.service(service_name or "")
        fields.count("keys", len(keys), self._limits.batch_size)
        fields.text("prefix", prefix, LARGEST_KEY_CHARACTERS)

    def _ref(self, environment: str, service_name: str, key: str, author: Author | None = None) -> Ref:
        with checked(self._limits) as fields:
            self._identity(fields, environment, service_name, key)
            if author is not None:
                fields.author(author)
        return config_ref(environment, service_name, key)

    async def _write(
        self, what: str, ref: Ref, decision: Decision, author: Author, content: Sequence[object]
    ) -> Change:
        fingerprint = digest(what, ref.environment, ref.service, ref.key, content)
        return (await self._writer.write(Write(author, (ref,), decision, fingerprint))).changes[0]

    async def _page(
        self,
        environment: str,
        services: tuple[str, ...] | None,
        keys: tuple[str, ...],
        prefix: str,
        page_size: int,
        token: str,
    ) -> Page[Record]:
        query = ("list", environment, services, sorted(keys), prefix)
        cursor = page_cursor(token, query, str, str)
        found = await self._reader.page(
            RecordQuery(
                Kind.CONFIG,
                environment,
                limit=page_size,
                services=services,
                keys=keys or None,
                prefix=prefix,
                after=(cursor[0], cursor[1]) if cursor else None,
                max_bytes=READ_BYTES,
            )
        )
        return page_of(
            query,
            found.records,
            token=token,
            more=found.more,
            revision=found.revision,
            history=found.history,
            cursor=_place,
        )


def _content(draft: ConfigDraft) -> list[object]:
    return [draft.description] if draft.value is MISSING else [draft.value, draft.description]


def _place(record: Record) -> tuple[str, str]:
    return (record.ref.key, record.ref.service)


def _batch_answer_bytes(operations: Sequence[ConfigOperation], author: Author) -> int:
    """The most that a batch's answer takes without values: names, author, and 150 bytes of numbers, etag and times."""
    named = [author.actor] * len(operations)
    for operation in operations:
        named += (operation.draft.environment, operation.draft.service_name, operation.draft.key)
    return sum(len(text.encode("utf-8", "surrogatepass")) for text in named) + 150 * len(operations)
