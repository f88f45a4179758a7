"""What goes into a quick read, and what comes out."""

from collections.abc import Callable
from typing import NamedTuple

from configsvc.rpc.quick_reads.positions import Position


class Answer(NamedTuple):
    """A `QuickAnswer` of the engine's port. Over REST it has no metadata but the details."""

    message: bytes
    trailing_metadata: tuple[tuple[str, str], ...]
    details: str


# What a method found for a request: message, revision, etag, resource_start. A tuple without a class, since making one of
# a class takes a tenth of a quick read.
#
# `message` is the answer without its revision. REST gets `message` from `resource_start` on, or the whole answer if that is
# 0. `etag`: of the resource, empty if the answer has none.
Found = tuple[bytes, int, str, int]

# What a method finds for the bytes of a request; None, or any exception: the general path must answer.
Find = Callable[[bytes, Position], Found | None]
