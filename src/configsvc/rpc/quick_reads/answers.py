"""What goes into a quick read, and what comes out."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from configsvc.rpc.quick_reads.positions import Position

# As an engine has it: names in lower case, and a name may come several times.
RequestMetadata = Iterable[tuple[str, str | bytes]]


class QuickAnswer(NamedTuple):
    """A successful answer. `details` is the message of its OK status, which only a call over REST has."""

    message: bytes
    trailing_metadata: tuple[tuple[str, str], ...]
    details: str


# Answers a unary call from the bytes of its request; None: the general path must answer. It never raises.
QuickRead = Callable[[bytes, RequestMetadata], QuickAnswer | None]


class Found(NamedTuple):
    """What a method found for a request.

    `message` is the answer without its revision. REST gets `message` from `resource_start` on, or the whole answer if
    that is 0. `etag`: of the resource, empty if the answer has none.
    """

    message: bytes
    revision: int
    etag: str = ""
    resource_start: int = 0


# What a method finds for the bytes of a request; None, or any exception: the general path must answer.
Find = Callable[[bytes, Position], Found | None]
