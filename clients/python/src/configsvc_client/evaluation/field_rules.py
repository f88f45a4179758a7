"""The rules that single fields of every resource keep. Each function returns what is wrong, or an empty text."""

import re
import unicodedata
from typing import Final

# One alphabet for what stands alone in a URL path, a ZooKeeper node name and a Kafka key.
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
NAME_ALPHABET: Final = "letters, digits, '.', '_' and '-', starting with a letter or digit"
NO_CONTROL_CHARACTERS: Final = "must not have control characters (NUL among them) or lone surrogates"


def name_problem(value: str, most: int, *, required: bool = True) -> str:
    """A name in the one alphabet, up to `most` characters."""
    if not value:
        return f"is required: 1 to {most} characters: {NAME_ALPHABET}" if required else ""
    if len(value) > most or not NAME.fullmatch(value):
        return f"must be 1 to {most} characters: {NAME_ALPHABET}"
    return ""


def text_problem(value: str, most: int, *, required: bool = False, multiline: bool = False) -> str:
    """Text for people, up to `most` characters. `multiline`: line breaks and tabs are allowed."""
    if not value:
        return f"is required: 1 to {most} characters" if required else ""
    if len(value) > most:
        return f"must be at most {most} characters; it has {len(value)}"
    return NO_CONTROL_CHARACTERS if has_control_characters(value, allowed="\n\r\t" if multiline else "") else ""


def count_problem(count: int, most: int, *, least: int = 0) -> str:
    """The number of items in a list."""
    if least <= count <= most:
        return ""
    allowed = f"{least} to {most}" if least else f"at most {most}"
    return f"must have {allowed} items; it has {count}"


def has_control_characters(text: str, *, allowed: str = "") -> bool:
    """Whether a text has control characters or lone surrogates, but for those that are `allowed`."""
    if text.isprintable():
        return False
    return any(unicodedata.category(c) in ("Cc", "Cs") and c not in allowed for c in text)
