"""The quick reads by the path of their method."""

import logging
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Protocol

from google.protobuf.descriptor import ServiceDescriptor

from configsvc.rpc.engine.port import QuickRead, RequestMetadata
from configsvc.rpc.quick_reads.answers import Answer, Find
from configsvc.rpc.quick_reads.positions import Positions
from configsvc.rpc.quick_reads.wire import number_tag, varint
from configsvc.rpc.requests.request_metadata import new_request_id, request_id

logger = logging.getLogger(__name__)

# A larger request takes so long to read that its call loses nothing on the general path.
REQUEST_BYTES = 1 << 20


class ReadLog(Protocol):
    """What the access log has for the reads of one method, if it leaves some out."""

    def is_due(self, now: float) -> bool:
        """Whether a read that ends at `now` (`time.perf_counter`) must have a line."""
        ...

    def skip(self) -> None:
        """Counts a read without a line."""
        ...


class QuickReads:
    """The quick reads of a server.

    `log_of`: the access log of a method; None if each call must have a line. A call with a line takes the general path,
    which writes it.
    """

    def __init__(self, positions: Positions, log_of: Callable[[str], ReadLog | None]) -> None:
        self._positions = positions
        self._log_of = log_of
        self._by_path: dict[str, QuickRead] = {}

    @property
    def by_path(self) -> Mapping[str, QuickRead]:
        """The quick reads of the methods that have one."""
        return self._by_path

    def add(self, service: ServiceDescriptor, methods: Mapping[str, Find]) -> None:
        """Adds methods of a service, by their name. A method whose calls all have a line is left out."""
        for name, find in methods.items():
            path = f"/{service.full_name}/{name}"
            if (log := self._log_of(path)) is not None:
                response = service.methods_by_name[name].output_type
                self._by_path[path] = self._quick_read(path, find, log, number_tag(response, "revision"))

    def _quick_read(self, path: str, find: Find, log: ReadLog, revision_tag: bytes) -> QuickRead:
        current_position = self._positions.current

        def read(received: bytes, metadata: RequestMetadata) -> Answer | None:
            try:
                position = current_position()
                if position is None or len(received) > REQUEST_BYTES or log.is_due(perf_counter()):
                    return None
                # Only names that end with -bin have bytes, and none of them is read.
                sent: dict[str, str] = dict(metadata)  # type: ignore[arg-type]
                if "if-none-match" in sent or sent.get("x-history", position.history) != position.history:
                    return None
                found = find(received, position)
                if found is None:
                    return None
                message, revision, etag, resource_start = found
                is_rest = sent.get("x-configsvc-rest") == "1"
                if is_rest and resource_start:
                    message = message[resource_start:]
                else:
                    encoded = position.encoded_revision if revision == position.revision else varint(revision)
                    message = b"".join((message, revision_tag, encoded))
                log.skip()
                if is_rest:
                    return Answer(message, (), f'{position.rest} etag="{etag}"' if etag else position.rest)
                own_id = request_id(sent) if "x-request-id" in sent else new_request_id()
                if etag:
                    return Answer(message, (("x-request-id", own_id), *position.metadata, ("etag", f'"{etag}"')), "")
                return Answer(message, (("x-request-id", own_id), *position.metadata), "")
            except Exception:
                # The general path says what is wrong, if anything is.
                logger.debug("no quick read of %s", path, exc_info=True)
                return None

        return read
