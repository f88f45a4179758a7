"""What the kernel says of processes, for the tests of the harness."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

SECONDS = 30.0
# Names the services that a run shares with its workers (tests/engines/plugin.py).
SHARED = "CONFIGSVC_TEST_SERVICES"


def eventually(condition: Callable[[], object], *, seconds: float = SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        threading.Event().wait(0.01)


def alive(pid: int) -> bool:
    try:
        stat = Path("/proc", str(pid), "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def mentioning(text: str) -> list[int]:
    """The processes with `text` in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                command = (entry / "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if text.encode() in command:
                found.append(int(entry.name))
    return found


def listening(pids: set[str]) -> set[str]:
    """The local addresses of the listening TCP sockets of these processes."""
    sockets = set()
    for pid in pids:
        for descriptor in Path("/proc", pid, "fd").iterdir():
            target = os.readlink(descriptor)
            if target.startswith("socket:["):
                sockets.add(target[8:-1])
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in sockets:
                number = fields[1].partition(":")[0]
                # IPv4 in host order; IPv4 mapped into IPv6 ends in it.
                mapped = len(number) == 32 and number[:24] == "0000000000000000FFFF0000"
                last = number[-8:] if mapped or len(number) == 8 else ""
                octets = [str(int(last[i : i + 2], 16)) for i in (6, 4, 2, 0)] if last else []
                found.add(".".join(octets) or number)
    return found


def descendants(pid: int) -> list[int]:
    """The children of a process, their children, and so on."""
    family = [pid]
    for parent in family:
        for thread in Path("/proc", str(parent), "task").iterdir():
            family += [int(child) for child in (thread / "children").read_text().split()]
    return family[1:]


def clean_environment(**more: str) -> dict[str, str]:
    """The environment of this process, without the variable that lends this run's services to a child."""
    return {key: value for key, value in os.environ.items() if key != SHARED} | more
