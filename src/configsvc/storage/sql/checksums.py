"""Checksums of rows, for a database that has none of its own.

A checksum is the CRC-32 (zlib's) of the row's columns. It detects every change of up to 32 consecutive bits, and misses
one in four billion of the larger ones. It does not protect against a person who alters a row on purpose.
"""

import zlib
from collections.abc import Sequence
from typing import Any

from configsvc.errors import DataLoss

# Stands for NULL. No column holds control characters.
_NULL = "\x00"


def checksum(*values: Any) -> int:
    """The checksum of a row whose columns have these values: integers, texts or None."""
    texts = [_NULL if value is None else str(value) for value in values]
    return zlib.crc32("\x1f".join(texts).encode("utf-8", "surrogatepass"))


def verified(values: Sequence[Any], table: str, name: str) -> Sequence[Any]:
    """The columns of a row without the last one, which is its checksum. `name` names the row for people.

    Raises:
        DataLoss: the checksum does not match the row.
    """
    *columns, expected = values
    if checksum(*columns) != expected:
        raise DataLoss(f"the stored row of '{name}' in '{table}' is damaged: its checksum does not match it")
    return columns
