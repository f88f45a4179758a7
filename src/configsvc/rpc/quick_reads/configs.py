"""GetConfig and BulkGetConfigs from the near cache. A record is encoded once, and the encoding is kept with its entry."""

from collections.abc import Mapping, Sequence
from operator import attrgetter

from configsvc_client.v1 import config_pb2

from configsvc.app.configs.near_entries import Encoding, Entry
from configsvc.app.configs.store import ConfigStore
from configsvc.domain.configs import config_ref
from configsvc.domain.records import Record, Ref
from configsvc.rpc import convert
from configsvc.rpc.offload import LARGE_BYTES
from configsvc.rpc.quick_reads import wire
from configsvc.rpc.quick_reads.answers import Find, Found
from configsvc.rpc.quick_reads.positions import Position
from configsvc.rpc.quick_reads.request_memo import RequestMemo

# Both answers have it, as the same field.
_CONFIG = wire.delimited_tag(config_pb2.GetConfigResponse.DESCRIPTOR, "config")
_IS_CURRENT = attrgetter("is_current")
_MISSING = wire.delimited_tag(config_pb2.BulkGetConfigsResponse.DESCRIPTOR, "missing")


class _Get:
    """A GetConfig request, and the encoding that it was answered with last."""

    __slots__ = ("encoding", "etag", "min_revision", "ref", "resource_start")

    def __init__(self, ref: Ref, min_revision: int) -> None:
        self.ref = ref
        self.min_revision = min_revision
        self.encoding: Encoding | None = None
        self.etag = ""
        self.resource_start = 0


class _Bulk:
    """A BulkGetConfigs request, and what it was answered with last."""

    __slots__ = ("contents", "encodings", "min_revision", "refs")

    def __init__(self, refs: Sequence[Ref], min_revision: int) -> None:
        self.refs = refs
        self.min_revision = min_revision
        self.encodings: Sequence[Encoding] = ()
        self.contents = b""


class QuickConfigs:
    """The quick reads of ConfigService."""

    def __init__(self, store: ConfigStore, batch_size: int) -> None:
        self._store = store
        self._batch_size = batch_size
        self._gets = RequestMemo[_Get]()
        self._bulks = RequestMemo[_Bulk]()

    @property
    def methods(self) -> Mapping[str, Find]:
        """What answers each method."""
        return {"GetConfig": self.get, "BulkGetConfigs": self.bulk}

    def get(self, received: bytes, position: Position) -> Found | None:
        """GetConfig."""
        request = self._gets.get(received) or self._read_get(received)
        encoding = request.encoding
        if encoding is None or not encoding.is_current:
            encoding = self._find(request)
            if encoding is None:
                return None
        if not 0 <= request.min_revision <= position.revision:
            return None
        encoding.is_used = True
        revision = position.revision if position.revision > encoding.until else encoding.until
        return encoding.contents, revision, request.etag, request.resource_start

    def bulk(self, received: bytes, position: Position) -> Found | None:
        """BulkGetConfigs."""
        request = self._bulks.get(received) or _read_bulk(received, self._batch_size)
        encodings = request.encodings
        if not encodings or not _are_current(encodings):
            encodings = self._find_all(received, request, position)
            if not encodings:
                return None
        if not 0 <= request.min_revision <= position.revision:
            return None
        for encoding in encodings:
            encoding.is_used = True
            if encoding.until > position.revision:
                # The store was read ahead of the log. The general path says what stood together.
                return None
        return request.contents, position.revision, "", 0

    def _read_get(self, received: bytes) -> _Get:
        message = config_pb2.GetConfigRequest.FromString(received)
        request = _Get(convert.ref_of(message), message.min_revision)
        self._gets.put(received, request)
        return request

    def _find(self, request: _Get) -> Encoding | None:
        entry = self._store.peek(request.ref)
        if entry is None or entry.record is None:
            return None
        request.encoding = encoding = self._encoding(entry)
        if encoding is not None:
            request.etag = entry.record.etag
            request.resource_start = wire.contents_start(encoding.contents)
        return encoding

    def _find_all(self, received: bytes, request: _Bulk, position: Position) -> Sequence[Encoding]:
        """The encodings of all keys, of missing ones too; empty if the general path must answer."""
        known: Sequence[Encoding | None] = request.encodings or [None] * len(request.refs)
        encodings: list[Encoding] = []
        for ref, last in zip(request.refs, known, strict=True):
            encoding = last
            if encoding is None or not encoding.is_current:
                entry = self._store.peek(ref)
                if entry is None or entry.since > position.revision or (encoding := self._encoding(entry)) is None:
                    return ()
            encodings.append(encoding)
        contents = [
            encoding.contents or wire.text(_MISSING, ref.key)
            for ref, encoding in zip(request.refs, encodings, strict=True)
        ]
        if sum(map(len, contents)) > LARGE_BYTES:
            # Not to be looked up again for nothing.
            request.refs, encodings = (), []
        request.contents = b"".join(contents)
        request.encodings = encodings
        self._bulks.put(received, request, len(request.contents) + 400 * len(encodings))
        # The last encodings may have evicted the first.
        return encodings if _are_current(encodings) else ()

    def _encoding(self, entry: Entry) -> Encoding | None:
        """The entry's encoding. None if the record is large, or if there is no room for it."""
        if entry.encoding is None:
            record = entry.record
            if record is not None and record.held_bytes >= LARGE_BYTES:
                return None
            self._store.put_encoding(entry, b"" if record is None else _encoded(record))
        encoding = entry.encoding
        return encoding if encoding is not None and encoding.is_current else None


def _are_current(encodings: Sequence[Encoding]) -> bool:
    return False not in map(_IS_CURRENT, encodings)


def _read_bulk(received: bytes, batch_size: int) -> _Bulk:
    message = config_pb2.BulkGetConfigsRequest.FromString(received)
    keys = dict.fromkeys(message.keys) if len(message.keys) <= batch_size else ()
    return _Bulk([config_ref(message.environment, message.service_name, key) for key in keys], message.min_revision)


def _encoded(record: Record) -> bytes:
    """The field of an answer that a record is."""
    return wire.delimited(_CONFIG, convert.config(record).SerializeToString())
