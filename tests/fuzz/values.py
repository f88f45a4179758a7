"""Random messages: mostly valid with one mistake, because a message full of mistakes is refused at the first check."""

import json
import math
import random
from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

ENVIRONMENT = "fuzz"
# Few names, so that requests use each other's resources.
NAMES = ("a", "b", "model_path", "new-ui", "x.y")

# Values for text fields.
TEXTS: tuple[str, ...] = (
    "",
    " ",
    "a",
    "ä/ö",
    "%2F",
    "..",
    "a//b",
    "a:rollback",
    "\x00",
    "\u202e",
    "\ud800",
    "💥" * 40,
    "x" * 600,
    "null",
    "0",
    "-1",
    "1e400",
    "${jndi:x}",
    "' OR 1=1 --",
    "<script>",
    "\r\nx-injected: 1",
)
NUMBERS: tuple[Any, ...] = (
    0,
    -0.0,
    1,
    -1,
    99.999,
    100,
    100.0005,
    2**31 - 1,
    2**31,
    2**53,
    2**63,
    -(2**63) - 1,
    1e308,
    5e-324,
)
# Only literal loopback addresses, or none: a check must neither leave the machine nor resolve a name.
URLS = (
    "http://127.0.0.1:9",
    "http://127.0.0.1:9/health",
    "https://[::1]:9/x",
    "tcp://127.0.0.1:1",
    "grpc://127.0.0.1:9",
    "http://169.254.169.254/latest",
    "http://[::ffff:169.254.169.254]/",
    "http://",
    "ftp://127.0.0.1",
    "http://127.0.0.1:99999",
    "http://[::1",
    "javascript:1",
    "http://127.0.0.1:9/" + "y" * 3_000,
)

Json = Any


class Values:
    """Random JSON for messages, from one random source."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def one_in(self, number: int) -> bool:
        """True once in `number` calls on average."""
        return self.rng.randrange(number) == 0

    def message(self, descriptor: Descriptor, depth: int = 0) -> dict[str, Json]:
        """The JSON of a message of this type: most members are valid, others are left out, wrong or unknown."""
        message: dict[str, Json] = {}
        for field in descriptor.fields:
            if not self._is_left_out(field):
                message[field.name if self.one_in(2) else field.json_name] = self._field(field, depth)
        if self.one_in(30):
            message[self.text()] = self.json()
        return message

    def _is_left_out(self, field: FieldDescriptor) -> bool:
        if field.name in ("environment", "key", "name", "flag_name", "service_name", "value", "service_url"):
            return self.one_in(30)
        return self.one_in(3) if field.name in ("instance_id", "enabled", "rollout_percentage") else not self.one_in(3)

    def _field(self, field: FieldDescriptor, depth: int) -> Json:
        if self.one_in(40):
            return self.json()
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            return {self.text(): self.text() for _ in range(self.rng.randrange(4))}
        if field.is_repeated:
            return [self._single(field, depth) for _ in range(self.rng.choice((0, 1, 2, 3, 30)))]
        return self._single(field, depth)

    def _single(self, field: FieldDescriptor, depth: int) -> Json:
        if field.message_type is not None:
            return self._embedded(field.message_type, depth)
        makers: dict[int, Callable[[], Json]] = {
            FieldDescriptor.CPPTYPE_STRING: lambda: self._named(field.name),
            FieldDescriptor.CPPTYPE_BOOL: lambda: self.one_in(2),
            FieldDescriptor.CPPTYPE_DOUBLE: self._number,
            FieldDescriptor.CPPTYPE_FLOAT: self._number,
        }
        return makers.get(field.cpp_type, self._whole)()

    def _embedded(self, descriptor: Descriptor, depth: int) -> Json:
        if descriptor.full_name == "google.protobuf.Value":
            return self.json()
        if descriptor.full_name == "google.protobuf.Struct":
            return {self.text(): self.json() for _ in range(self.rng.randrange(4))}
        if descriptor.full_name == "google.protobuf.Timestamp":
            return self.rng.choice(("2026-01-01T00:00:00Z", "not a time", "0000-01-01T00:00:00Z", 5))
        if descriptor.full_name == "google.protobuf.FieldMask":
            return self.rng.choice(("enabled", "value,description", "*", "nothing", "a.b.c", ""))
        return self.message(descriptor, depth + 1) if depth < 4 else {}

    def _named(self, name: str) -> str:
        """A text that fits a field of this name, most of the time."""
        if "url" in name:
            return self.rng.choice(URLS)
        if self.one_in(15):
            return self.text()
        if name == "environment":
            return ENVIRONMENT
        known = {
            "value_type": ("boolean", "string", "number", "object"),
            "operator": ("in", "equals", "matches", "semver_gt", "cidr", "present", "less_than"),
            "kind": ("config", "flag", "instance"),
            "strategy": ("round_robin", "random", "weighted", "consistent_hash"),
            "etag": ("", '"1-1"', "*", "1-1"),
            "page_token": ("", "eyJ9", "x"),
            "request_id": ("", f"r{self.rng.randrange(10**9)}"),
        }
        return self.rng.choice(known.get(name, NAMES))

    def _number(self) -> Json:
        return self.rng.choice((self.rng.uniform(0, 100), *NUMBERS))

    def _whole(self) -> Json:
        # Few of them are large: a read waits for a future revision.
        return self.rng.choice((0, 0, 1, 2, 10, 1000)) if not self.one_in(10) else self.rng.choice(NUMBERS)

    def text(self) -> str:
        """Any text."""
        return self.rng.choice((*NAMES, *TEXTS))

    def json(self, depth: int = 0) -> Json:
        """Any JSON value, sometimes deep or wide."""
        kind = self.rng.randrange(9 if depth < 5 else 5)
        if kind == 0:
            return self.rng.choice((None, True, False))
        if kind in (1, 2):
            return self.text()
        if kind == 3:
            return self.rng.choice(NUMBERS)
        if kind == 4:
            return self.rng.randrange(1_000)
        if kind == 5 and depth == 0 and self.one_in(4):
            nested: Json = 0
            for _ in range(self.rng.choice((5, 31, 120, 900))):
                nested = [nested] if self.one_in(2) else {"n": nested}
            return nested
        if kind in (5, 6):
            return [self.json(depth + 1) for _ in range(self.rng.randrange(5))]
        return {self.text(): self.json(depth + 1) for _ in range(self.rng.randrange(5))}

    def document(self, value: Json) -> bytes:
        """The value as JSON text: mostly valid, else broken in one of many ways."""
        text = json.dumps(value, ensure_ascii=self.one_in(2), allow_nan=True)
        encoded = text.encode("utf-8", "surrogatepass")
        broken: tuple[Callable[[], bytes], ...] = (
            lambda: encoded[: self.rng.randrange(len(encoded) + 1)],
            lambda: encoded + self.rng.choice((b"}", b"[]", b"\x00", b" x")),
            lambda: encoded.replace(b'"', b"'"),
            lambda: encoded.replace(b":", b":\xff\xfe", 1),
            lambda: encoded.replace(b'": ', b'\\q": ', 1),
            lambda: b'{"environment":"fuzz","environment":"other",' + encoded[1:],
            lambda: b"[" * self.rng.choice((50, 5_000)) + encoded,
            lambda: b"\xef\xbb\xbf" + encoded,
            lambda: b"",
            lambda: b"NaN",
            lambda: encoded.replace(b"}", b',"zz":"' + b"z" * 200_000 + b'"}', 1),
            lambda: bytes(self.rng.randrange(256) for _ in range(self.rng.randrange(200))),
        )
        return self.rng.choice(broken)() if self.one_in(10) else encoded


def is_finite(value: object) -> bool:
    """Whether a number can be in a protobuf Value."""
    return not isinstance(value, float) or math.isfinite(value)
