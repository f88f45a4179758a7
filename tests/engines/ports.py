"""Free loopback ports that stay free as long as they are held.

A service that is killed and restarted needs the same port. Two things could take it:

- an outgoing connection, since the kernel picks their ports from `ip_local_port_range` (and a
  client that keeps trying a dead port of that range can even end up connected to itself); so ports
  come from outside it;
- another test process on this machine; so a held port has a lock file that all of them check.
"""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

_LOWEST = 10_000
"""Lower ports are the well-known ports of services that a developer may have running."""
_HIGHEST = 65_535
_ENOUGH = 1_000
"""A range with fewer ports than this is too narrow to find free ones at random."""
_TRIES = 500


def _range() -> range:
    try:
        text = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text()
    except OSError:
        return range(_LOWEST, _HIGHEST)
    first, last = (int(part) for part in text.split())
    below, above = range(_LOWEST, first), range(last + 1, _HIGHEST)
    widest = max(below, above, key=len)
    return widest if len(widest) >= _ENOUGH else range(_LOWEST, _HIGHEST)


class Port:
    """A loopback port, held until `release` (or the end of this process)."""

    def __init__(self) -> None:
        directory = Path(tempfile.gettempdir(), f"configsvc-ports-{os.geteuid()}")
        directory.mkdir(mode=0o700, exist_ok=True)
        candidates = _range()
        for _ in range(_TRIES):
            number = random.choice(candidates)
            lock = os.open(directory / str(number), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", number))
            except OSError:
                os.close(lock)
                continue
            self.number = number
            self._lock: int | None = lock
            return
        raise OSError(f"no free port in {candidates} after {_TRIES} tries")

    def release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()
