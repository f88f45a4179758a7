"""Requests that no one can decode: told in the one shape of errors. gRPC's own answer would be INTERNAL, in the decoder's
words."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError

from configsvc.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Undecodable:
    """Stands for a message until someone can answer that it can't be read."""


UNDECODABLE = Undecodable()


def deserializer(inner: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """One that gives `UNDECODABLE` where `inner` raises."""

    def read(data: bytes) -> Any:
        try:
            return inner(data)
        except DecodeError:
            return UNDECODABLE

    return read


def readable(request: Any) -> Any:
    """The request. Raises `InvalidInput` where it could not be decoded."""
    if request is UNDECODABLE:
        raise InvalidInput.of(
            "request",
            "can't be read: it is nested more deeply than 100 messages (each level of a JSON object takes three),"
            " or has text that is not UTF-8",
            "MALFORMED_REQUEST",
        )
    return request


async def each_readable(requests: Any) -> AsyncIterator[Any]:
    """The requests of a stream. Raises as `readable` does."""
    async for request in requests:
        yield readable(request)
