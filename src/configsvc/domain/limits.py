"""The limits of what the service accepts. Settings can change them; the protos name the defaults."""

from dataclasses import dataclass

# The highest limit of a key that settings allow, and so the longest key that may be stored.
LARGEST_KEY_CHARACTERS = 4_096


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in the unit that ends each name; a name without a unit is a count."""

    key_characters: int = 512
    value_bytes: int = 1 << 20
    page_size: int = 1_000
    batch_size: int = 1_000
    metadata_entries: int = 64

    # The page of a caller that names no size: enough for a screen, small enough to be quick.
    default_page_size: int = 100
    description_characters: int = 4_096
    reason_characters: int = 1_024
    request_id_characters: int = 128
