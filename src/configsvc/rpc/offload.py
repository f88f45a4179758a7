"""Conversions of large values, on threads.

A value of 4 MiB can have hundreds of thousands of small items. Their conversion takes up to seconds, and on the event loop
it would delay every other call. A thread gives way to the loop every 5 ms (`sys.getswitchinterval`). Nearly all values are
small, and are converted on the loop: handing them to a thread would cost more than the conversion.
"""

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from google.protobuf.message import Message

T = TypeVar("T")

# The worst kind of value of this size takes one or two milliseconds.
LARGE_BYTES = 128 << 10
# The threads share one interpreter lock, so more of them would not be faster, and would delay the loop more. The first one
# starts with the first large value.
_THREADS = ThreadPoolExecutor(2, "conversion")


class HasBody(Protocol):
    """A record or a change."""

    @property
    def held_bytes(self) -> int:
        """About how much memory its bodies take."""
        ...


async def offload(size_bytes: int, work: Callable[[], T]) -> T:
    """The result of `work`, which runs on a thread if `size_bytes` is large. It must not touch anything that changes."""
    if size_bytes < LARGE_BYTES:
        return work()
    return await asyncio.get_running_loop().run_in_executor(_THREADS, work)


async def offload_items(items: Iterable[HasBody], work: Callable[[], T]) -> T:
    """`offload` of work on these items."""
    return await offload(sum(item.held_bytes for item in items), work)


async def offload_request(request: Message, work: Callable[[], T]) -> T:
    """`offload` of work that reads a request."""
    return await offload(request.ByteSize(), work)
