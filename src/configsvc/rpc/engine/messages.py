"""What both engines do with messages."""

from typing import Any

# Every answer is smaller than what stock clients receive (`domain/sizes.py`). The exception is a single resource that was
# stored before there was a limit: a caller gets it if its client is set to receive it.
MAX_SEND_BYTES = 64 << 20


def serialized(message: Any) -> bytes:
    """A response's bytes. Watches yield bytes: they serialize a change once for all watchers."""
    return message if isinstance(message, bytes) else message.SerializeToString()
