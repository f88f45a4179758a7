"""Changes as serialized messages of a watch: made once, sent to every watcher."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from configsvc.app.watch.events import Changed
from configsvc.domain.records import Change
from configsvc.domain.sizes import ANSWER_BYTES
from configsvc.rpc.convert.message_budget import Detail
from configsvc.rpc.offload import LARGE_BYTES, offload
from configsvc.single_flight import SingleFlight

# Live watchers are close together in the log, so the newest changes are enough. A change can have megabytes (the values
# before and after it), so the bytes are bounded, too.
MAX_CHANGES, MAX_BYTES = 4_096, 16 << 20


class EncodedChanges:
    """The newest encoded changes of one service. `to_message` makes the watch message of a change."""

    def __init__(self, to_message: Callable[[Change, Detail], Any]) -> None:
        self._to_message = to_message
        self._encoded: OrderedDict[tuple[int, int, bool], bytes] = OrderedDict()
        self._total_bytes = 0
        self._encodings = SingleFlight[tuple[int, int, bool], bytes]("encoding of a change")

    async def get(self, event: Changed) -> bytes:
        """The message of an event, in as much detail as fits. A large one is encoded on a thread."""
        if (encoded := self.get_now(event)) is not None:
            return encoded
        return await self._encodings.run(event.identity, lambda: self._encode_on_thread(event))

    def get_now(self, event: Changed) -> bytes | None:
        """The same; None if the change is large and not encoded yet."""
        encoded = self._encoded.get(event.identity)
        if encoded is None and event.change.held_bytes < LARGE_BYTES:
            encoded = self._add(event, self._encode(event))
        return encoded

    async def _encode_on_thread(self, event: Changed) -> bytes:
        return self._add(event, await offload(event.change.held_bytes, lambda: self._encode(event)))

    def _encode(self, event: Changed) -> bytes:
        for detail in Detail:
            message = self._to_message(event.change, detail)
            message.change.revision_complete = event.completes
            encoded: bytes = message.SerializeToString()
            if len(encoded) <= ANSWER_BYTES:
                break
        return encoded

    def _add(self, event: Changed, encoded: bytes) -> bytes:
        self._encoded[event.identity] = encoded
        self._total_bytes += len(encoded)
        while len(self._encoded) > MAX_CHANGES or self._total_bytes > MAX_BYTES:
            _, oldest = self._encoded.popitem(last=False)
            self._total_bytes -= len(oldest)
        return encoded
