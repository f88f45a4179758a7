"""Random JSON bodies in all the ways to write JSON: mostly valid for a message, some with an error."""

import json
from random import Random
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from configsvc.gateway.lua_tables import map_value

TEXTS = ("", "a", "a.b", "x" * 70, "é", "😀", '"', "\\", "/", "\n", "\x7f", "\u2028", "environment", "1", "0.5", "true")
NUMBERS = (0, 1, -1, 7, 2**31 - 1, 2**31, -(2**31), 2**53 - 1, 0.5, -0.0, 1e300, 5e-324, 12.0)
MUTATIONS = (
    b"", b"", b"\\", b'"', b"{", b"}", b"[", b"]", b",", b":", b"0", b"-", b"e", b".", b"\x00", b"\x1f", b"\x7f", b"\xff",
    b"\xc3", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82\xac", b"\xef\xbb\xbf", b"\\ud800",
    b"\\udc00", b"\\uD83D\\uDE00", b"\\u00g0", b"\\x", b"null", b"nul", b"NaN", b"Infinity", b"1e999", b"01",
    b"1" + b"0" * 308, b"1" + b"0" * 309,
)  # fmt: skip


class Pairs(list[tuple[str, Any]]):
    """A JSON object that may have a member twice."""


class Bodies:
    """A generator of bodies."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def body(self, message: Any) -> bytes:
        """A body for the message with this descriptor."""
        body = self._text(self._message(message, 0)).encode("utf-8", "surrogatepass")
        for _ in range(self._random.choice((0, 0, 1, 1, 2))):
            at = self._random.randint(0, len(body))
            body = body[:at] + self._random.choice(MUTATIONS) + body[at + self._random.randint(0, 2) :]
        return body

    def _message(self, message: Any, depth: int) -> Pairs:
        fields = self._random.sample(list(message.fields), min(len(message.fields), self._random.randint(0, 5)))
        pairs = [(self._random.choice((f.name, f.json_name)), self._field(f, depth)) for f in fields]
        if self._one_in(8):
            pairs.append((self._random.choice(TEXTS), self._any(2)))
        if self._one_in(8) and pairs:
            f = self._random.choice(fields or list(message.fields))
            pairs.append((self._random.choice((f.name, f.json_name)), self._field(f, depth)))
        return Pairs(pairs)

    def _field(self, member: Any, depth: int) -> Any:
        if self._one_in(12):
            return self._random.choice((None, self._any(2)))
        value = map_value(member)
        if value is not member:
            return Pairs((self._random.choice(TEXTS), self._single(value, depth)) for _ in range(self._few()))
        if member.is_repeated:
            return [self._single(value, depth) for _ in range(self._few())]
        return self._single(value, depth)

    def _single(self, value: Any, depth: int) -> Any:
        if value.message_type is not None:
            name = value.message_type.full_name
            if name == "google.protobuf.Value":
                return self._any(3)
            if name == "google.protobuf.Struct":
                return self._object(2)
            return self._message(value.message_type, depth + 1) if depth < 3 else Pairs()
        if value.cpp_type == FieldDescriptor.CPPTYPE_STRING:
            return self._random.choice(TEXTS)
        if value.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
            return self._random.choice((True, False))
        number = self._random.choice(NUMBERS)
        return str(number) if self._one_in(4) and abs(number) < 2**31 else number

    def _any(self, deep: int) -> Any:
        kind = self._random.randint(0, 5 if deep else 3)
        if kind == 4:
            return [self._any(deep - 1) for _ in range(self._few())]
        if kind == 5:
            return self._object(deep - 1)
        return self._random.choice((None, True, False, *TEXTS, *NUMBERS))

    def _object(self, deep: int) -> Pairs:
        return Pairs((self._random.choice(TEXTS), self._any(deep)) for _ in range(self._few()))

    def _text(self, value: Any) -> str:
        if isinstance(value, Pairs):
            inside = [f"{self._space()}{self._text(name)}{self._space()}:{self._text(item)}" for name, item in value]
            return self._space() + "{" + ",".join(inside) + self._space() + "}"
        if isinstance(value, list):
            return "[" + ",".join(self._space() + self._text(item) for item in value) + "]"
        if isinstance(value, str) and self._one_in(6):
            return '"' + "".join(f"\\u{unit:04x}" for unit in _units(value)) + '"'
        return json.dumps(value, ensure_ascii=self._one_in(2))

    def _space(self) -> str:
        return self._random.choice(("", "", "", "", " ", "\n\t\r "))

    def _few(self) -> int:
        return self._random.choice((0, 1, 1, 2, 3))

    def _one_in(self, chances: int) -> bool:
        return self._random.randrange(chances) == 0


def _units(text: str) -> list[int]:
    """The UTF-16 code units of a text."""
    encoded = text.encode("utf-16-be", "surrogatepass")
    return [int.from_bytes(encoded[at : at + 2], "big") for at in range(0, len(encoded), 2)]
