"""Requests that were read once, by their bytes."""

from collections import OrderedDict
from typing import Generic, TypeVar

T = TypeVar("T")

# What is kept of the requests of one method.
MEMO_BYTES = 8 << 20
# A larger request is read anew each time.
REQUEST_BYTES = 8 << 10
# About what one item takes beside its request and its contents.
ITEM_BYTES = 800


class RequestMemo(Generic[T]):
    """What is known of the requests that came last, within a bound of bytes. `get` returns what is known of one."""

    __slots__ = ("_held_bytes", "_items", "_sizes", "get")

    def __init__(self) -> None:
        self._items: OrderedDict[bytes, T] = OrderedDict()
        self._sizes: dict[bytes, int] = {}
        self._held_bytes = 0
        # Not a method: that would take longer than the look-up.
        self.get = self._items.get

    @property
    def held_bytes(self) -> int:
        """About what it takes in memory."""
        return self._held_bytes

    def put(self, request: bytes, item: T, contents_bytes: int = 0) -> None:
        """Keeps or replaces what is known of a request. `contents_bytes`: what the item refers to. The oldest go first."""
        if len(request) > REQUEST_BYTES:
            return
        size = len(request) + contents_bytes + ITEM_BYTES
        self._held_bytes += size - self._sizes.get(request, 0)
        self._items[request], self._sizes[request] = item, size
        while self._held_bytes > MEMO_BYTES:
            oldest, _ = self._items.popitem(last=False)
            self._held_bytes -= self._sizes.pop(oldest)
