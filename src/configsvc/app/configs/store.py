"""The use cases of configuration: check the request, then one read or one write."""

from collections.abc import Sequence
from dataclasses import dataclass

from configsvc.app.changelog.history import Diff, VersionHistory, VersionPage
from configsvc.app.configs import batch_write
from configsvc.app.configs.near_cache import NearCache
from configsvc.app.configs.near_entries import Encoding, Entry
from configsvc.app.watch.selector import Selector
from configsvc.domain import config_writes, configs
from configsvc.domain.configs import (
    Config,
    ConfigDraft,
    ConfigFilter,
    ConfigOperation,
    EffectiveConfig,
    check_identity,
    config_ref,
)
from configsvc.domain.decisions import deletion
from configsvc.domain.fields import checked
from configsvc.domain.fingerprints import fingerprint
from configsvc.domain.limits import LARGEST_KEY_CHARACTERS, Limits
from configsvc.domain.pages import Page, PageRequest, page_cursor, page_of
from configsvc.domain.preconditions import NO_PRECONDITION, Precondition
from configsvc.domain.records import Action, AtRevision, Author, Change, Commit, Decision, Kind, Record, Ref, Write
from configsvc.domain.resources import not_found
from configsvc.domain.sizes import ANSWER_BYTES
from configsvc.storage.port import READ_BYTES, ChangeHistory, Reader, RecordQuery, Writer


@dataclass(frozen=True, slots=True)
class BulkRead:
    """Configurations by many keys, in the order of the request, at one revision.

    `not_read`: keys that were not looked up, because no answer has room for their values.
    """

    found: tuple[Record, ...]
    missing: tuple[str, ...]
    revision: int
    not_read: tuple[str, ...] = ()


class ConfigStore:
    """Configuration values by (environment, service, key); an empty service: shared by all services.

    Every method raises `InvalidInput` with all fields that can't be accepted, and what the ports raise. A method that
    takes a ref of one configuration means exactly this service's, not the shared value.
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
        with checked(self._limits) as fields:
            check_identity(fields, draft.ref, written=True)
            draft.check(fields)
            fields.author(author)
        return await self._write("create", draft.ref, config_writes.creation(draft), author, draft.content)

    async def get(self, ref: Ref) -> AtRevision[Record]:
        """One configuration. Raises `NotFound`."""
        with checked(self._limits) as fields:
            check_identity(fields, ref)
        view = await self._near_cache.get((ref,))
        record = view.get(ref)
        if record is None:
            raise not_found(ref)
        return AtRevision(record, view.revision)

    def peek(self, ref: Ref) -> Entry | None:
        """What `get` and `bulk` would find in memory now; None if they would wait. Raises what they raise for the ref."""
        with checked(self._limits) as fields:
            check_identity(fields, ref)
        return self._near_cache.peek(ref)

    def put_encoding(self, entry: Entry, contents: bytes) -> Encoding:
        """Keeps how callers get the record of an entry that `peek` has just returned."""
        return self._near_cache.put_encoding(entry, contents)

    async def list(self, selected: ConfigFilter, page: PageRequest) -> Page[Record]:
        """One page in the order of (key, service)."""
        with checked(self._limits) as fields:
            selected.check(fields)
            size = fields.page_size(page.size)
        services = None if selected.service_name is None else (selected.service_name,)
        query = ("list", selected.environment, services, sorted(selected.keys), selected.prefix)
        cursor = page_cursor(page.token, query, str, str)
        found = await self._reader.page(
            RecordQuery(
                Kind.CONFIG,
                selected.environment,
                limit=size,
                services=services,
                keys=selected.keys or None,
                prefix=selected.prefix,
                after=(cursor[0], cursor[1]) if cursor else None,
                max_bytes=READ_BYTES,
            )
        )
        return page_of(
            query,
            found.records,
            token=page.token,
            more=found.more,
            revision=found.revision,
            history=found.history,
            cursor=lambda record: (record.ref.key, record.ref.service),
        )

    async def update(
        self,
        draft: ConfigDraft,
        author: Author,
        *,
        precondition: Precondition = NO_PRECONDITION,
        allow_missing: bool = False,
    ) -> Change:
        """Writes the value, the description or both. Raises `NotFound` unless `allow_missing`, and `StaleEtag`."""
        ref = draft.ref
        with checked(self._limits) as fields:
            check_identity(fields, ref, written=True)
            draft.check(fields, partial=True)
            fields.author(author)
        decision = config_writes.update(draft, precondition, allow_missing=allow_missing)
        content = [*draft.content, precondition.content, allow_missing]
        return await self._write("update", ref, decision, author, content)

    async def delete(self, ref: Ref, author: Author, *, precondition: Precondition = NO_PRECONDITION) -> Change:
        """Deletes a configuration; its history stays. Raises `NotFound` and `StaleEtag`."""
        with checked(self._limits) as fields:
            check_identity(fields, ref)
            fields.author(author)
        return await self._write("delete", ref, deletion(ref, precondition), author, [precondition.content])

    async def history(self, ref: Ref, page: PageRequest) -> VersionPage:
        """Versions, newest first, of a live or a deleted configuration. Raises `NotFound`."""
        with checked(self._limits) as fields:
            check_identity(fields, ref)
            size = fields.page_size(page.size)
        return await self._versions.page(ref, size, page.token)

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
        view, not_read = await self._near_cache.get_within(tuple(refs.values()), READ_BYTES)
        read = {key: ref for key, ref in refs.items() if ref not in not_read}
        return BulkRead(
            tuple(record for ref in read.values() if (record := view.get(ref)) is not None),
            tuple(key for key, ref in read.items() if view.get(ref) is None),
            view.revision,
            tuple(key for key, ref in refs.items() if ref in not_read),
        )

    async def effective(
        self, environment: str, service_name: str, prefix: str, page: PageRequest
    ) -> Page[EffectiveConfig]:
        """One page of all values as a service sees them, in the order of key."""
        with checked(self._limits) as fields:
            fields.environment(environment)
            fields.service(service_name, required=True)
            fields.text("prefix", prefix, LARGEST_KEY_CHARACTERS)
            size = fields.page_size(page.size or self._limits.page_size)
        query = ("effective", environment, service_name, prefix)
        cursor = page_cursor(page.token, query, str)
        found = await self._reader.page(
            RecordQuery(
                Kind.CONFIG,
                environment,
                # A key has up to two records. One record more tells whether the last key is complete.
                limit=2 * size + 1,
                services=("", service_name),
                prefix=prefix,
                after=(cursor[0], service_name) if cursor else None,
                max_bytes=READ_BYTES,
            )
        )
        merged = configs.effective(service_name, found.records)
        return page_of(
            query,
            merged[:size],
            token=page.token,
            more=found.more or len(merged) > size,
            revision=found.revision,
            history=found.history,
            cursor=lambda one: (one.record.ref.key,),
        )

    async def effective_value(self, ref: Ref) -> AtRevision[EffectiveConfig]:
        """One value as a service sees it. Raises `NotFound` if the service has no value of its own, and none is shared."""
        with checked(self._limits) as fields:
            fields.key(ref.key)
            fields.environment(ref.environment)
            fields.service(ref.service, required=True)
        refs = (ref, config_ref(ref.environment, "", ref.key))
        view = await self._near_cache.get(refs)
        found = configs.effective(ref.service, [record for one in refs if (record := view.get(one)) is not None])
        if not found:
            raise not_found(ref)
        return AtRevision(found[0], view.revision)

    async def batch_write(self, environment: str, operations: Sequence[ConfigOperation], author: Author) -> Commit:
        """All operations in one revision, or none. Raises what the first operation that fails raises alone."""
        with checked(self._limits) as fields:
            batch_write.check(fields, environment, operations, author)
        return await self._writer.write(batch_write.write_of(environment, operations, author))

    async def rollback(
        self, ref: Ref, version: int, author: Author, *, precondition: Precondition = NO_PRECONDITION
    ) -> Change:
        """Writes what an earlier version held, as a new version; restores a deleted key.

        Raises:
            NotFound: there is no such version, or its change was compacted away.
            FailedPrecondition: the version is a delete.
        """
        with checked(self._limits) as fields:
            check_identity(fields, ref)
            fields.author(author)
            fields.version("version", version)
        earlier = Config.of(await self._versions.state(ref, version))
        draft = ConfigDraft.of(ref, earlier)
        decision = config_writes.update(draft, precondition, allow_missing=True, action=Action.ROLLBACK)
        return await self._write("rollback", ref, decision, author, [version, precondition.content])

    async def diff(self, ref: Ref, from_version: int, to_version: int) -> Diff:
        """Compares two versions; `to_version` 0 is the newest. A delete has no value. Raises `NotFound`."""
        with checked(self._limits) as fields:
            check_identity(fields, ref)
            fields.version("from_version", from_version)
            fields.version("to_version", to_version, least=0)
        return await self._versions.diff(ref, from_version, to_version, lambda body: Config.of(body).value)

    def selector(self, selected: ConfigFilter) -> Selector:
        """What a watch selects; the same filters as `list`."""
        with checked(self._limits) as fields:
            selected.check(fields)
        keys = frozenset(selected.keys) if selected.keys else None
        return Selector(Kind.CONFIG, selected.environment, selected.service_name, keys, selected.prefix)

    async def _write(
        self, method: str, ref: Ref, decision: Decision, author: Author, content: Sequence[object]
    ) -> Change:
        write = Write(
            author, (ref,), decision, fingerprint(author, method, ref.environment, ref.service, ref.key, content)
        )
        return (await self._writer.write(write)).changes[0]
