"""The wire format of protobuf, as far as answers are joined from parts that are encoded already.

A message is the concatenation of its fields in any order, each a tag and a value
(https://protobuf.dev/programming-guides/encoding).
"""

from google.protobuf.descriptor import Descriptor

_VARINT, _DELIMITED = 0, 2


def varint(number: int) -> bytes:
    """A number of a field. It must not be negative."""
    if number < 0x80:
        return bytes((number,))
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def number_tag(message: Descriptor, field: str) -> bytes:
    """What comes before the varint of a number or of a boolean."""
    return varint(message.fields_by_name[field].number << 3 | _VARINT)


def delimited_tag(message: Descriptor, field: str) -> bytes:
    """What comes before the length of a text or of a message."""
    return varint(message.fields_by_name[field].number << 3 | _DELIMITED)


def delimited(tag: bytes, contents: bytes) -> bytes:
    """A field with a text or a message."""
    return b"".join((tag, varint(len(contents)), contents))


def text(tag: bytes, value: str) -> bytes:
    """A field with a text. An empty text is not sent."""
    return delimited(tag, value.encode()) if value else b""


def contents_start(field: bytes) -> int:
    """Where the contents of a field begin that `delimited` made with a tag of one byte."""
    length_bytes = 1
    while field[length_bytes] >= 0x80:
        length_bytes += 1
    return length_bytes + 1
