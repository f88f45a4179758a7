"""Random gRPC requests: a method, a message as bytes, and metadata."""

import json
import random
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import Descriptor
from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message_factory import GetMessageClass

from tests.fuzz.routes import Rpc
from tests.fuzz.values import Values

METADATA: tuple[tuple[str, str | bytes], ...] = (
    ("x-request-id", "r" * 200),
    ("x-actor", "fuzz"),
    ("x-http-status", "204"),
    ("x-configsvc-rest", "1"),
    ("if-match", ""),
    ("if-match", '"1-1"'),
    ("if-none-match", "*"),
    ("any-bin", b"\xff\x00"),
    ("x-long", "l" * 6_000),
)


@dataclass(frozen=True, slots=True)
class Call:
    """One call."""

    rpc: Rpc
    messages: tuple[bytes, ...]
    metadata: tuple[tuple[str, str | bytes], ...]

    def __str__(self) -> str:
        return f"{self.rpc.path} {[message[:300] for message in self.messages]} {self.metadata}"


class Calls:
    """Makes random calls."""

    def __init__(self, rng: random.Random, rpcs: list[Rpc]) -> None:
        self._rng = rng
        self._values = Values(rng)
        self._rpcs = rpcs

    def next(self) -> Call:
        """One call."""
        rpc = self._rng.choice(self._rpcs)
        count = self._rng.randrange(4) if rpc.streams_requests else 1
        metadata = tuple(self._rng.choice(METADATA) for _ in range(self._rng.choice((0, 0, 0, 1, 2))))
        return Call(rpc, tuple(self._message(rpc.request) for _ in range(count)), metadata)

    def _message(self, descriptor: Descriptor) -> bytes:
        message: Any = GetMessageClass(descriptor)()
        try:
            # protobuf fails on a lone surrogate with a SystemError.
            source = json.loads(json.dumps(self._values.message(descriptor)).replace("\\ud800", ""))
            ParseDict(source, message, ignore_unknown_fields=True)
            data: bytes = message.SerializeToString()
        except (ParseError, ValueError, TypeError, RecursionError):
            # protobuf's JSON parser refused it: keep the part that was parsed, or nothing.
            data = message.SerializeToString()
        if self._values.one_in(10) and data:
            spoilt = bytearray(data)
            for _ in range(self._rng.randrange(1, 4)):
                spoilt[self._rng.randrange(len(spoilt))] = self._rng.randrange(256)
            return bytes(spoilt)
        if self._values.one_in(30):
            return bytes(self._rng.randrange(256) for _ in range(self._rng.randrange(100)))
        return data
