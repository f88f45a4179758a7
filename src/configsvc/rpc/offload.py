"""Conversions of large values, on threads of their own.

A value of 4 MiB can have hundreds of thousands of small items, whose conversion takes up to seconds: on the event loop
it would hold every other call for so long. A thread gives way to the loop every 5 ms (`sys.getswitchinterval`). Small
values, which are nearly all, are converted at once: a thread costs more than they do.
"""

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from google.protobuf.message import Message

T = TypeVar("T")

# About what is converted in a millisecond or two, of the worst kind.
LARGE_BYTES = 128 << 10
# More threads would not make it faster, as they take turns, and would make the loop wait for more of them. No thread is
# started before there is something to do.
_THREADS = ThreadPoolExecutor(2, "conversion")


class Held(Protocol):
    """A record or a change."""

    @property
    def held_bytes(self) -> int:
        """About what its bodies take in memory."""
        ...


async def offload(held_bytes: int, work: Callable[[], T]) -> T:
    """What `work` returns; made on a thread if so many bytes are large. It must not touch anything that changes."""
    if held_bytes < LARGE_BYTES:
        return work()
    return await asyncio.get_running_loop().run_in_executor(_THREADS, work)


async def offload_items(items: Iterable[Held], work: Callable[[], T]) -> T:
    """The same, of the size of these."""
    return await offload(sum(item.held_bytes for item in items), work)


async def offload_request(request: Message, work: Callable[[], T]) -> T:
    """What `work` reads from a request."""
    return await offload(request.ByteSize(), work)
