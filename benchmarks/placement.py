"""On which cores the servers and the load run.

Pinned: everything of a server (its database and its gateway too) on one core, and the load on another. So the figures
are per core, and the load takes nothing from the server. Free: the system decides.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.engines import Service


@dataclass(frozen=True, slots=True)
class Placement:
    """The cores of the servers and of the load; none: any core."""

    name: str
    server: tuple[int, ...] = ()
    load: tuple[int, ...] = ()

    @property
    def pinned(self) -> bool:
        """Whether the server has a core of its own."""
        return bool(self.server)

    def on_server(self) -> tuple[str, ...]:
        """The words before the command of a server."""
        return _taskset(self.server)

    def on_load(self) -> tuple[str, ...]:
        """The words before the command of a load client."""
        return _taskset(self.load)

    def place(self, *services: Service) -> None:
        """Moves running services, with all their processes and threads, to the server's cores."""
        for service in services:
            if service.ours:
                for pid in _family(service.process.pid):
                    _move(pid, self.server)


PINNED = "one core each"
FREE = Placement("any core")


def placements() -> tuple[Placement, ...]:
    """Pinned, if this process may use two cores; then free."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        return (FREE,)
    return (Placement(PINNED, server=(cores[0],), load=(cores[1],)), FREE)


_ALL = frozenset(os.sched_getaffinity(0))


def _taskset(cores: tuple[int, ...]) -> tuple[str, ...]:
    return ("taskset", "--cpu-list", ",".join(map(str, cores))) if cores else ()


def _move(pid: int, cores: tuple[int, ...]) -> None:
    for thread in _entries(pid):
        # A thread may end meanwhile.
        with suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread.name), cores or _ALL)


def _family(pid: int) -> Iterator[int]:
    """A process and its descendants."""
    yield pid
    for task in _entries(pid):
        with suppress(FileNotFoundError):
            for child in (task / "children").read_text().split():
                yield from _family(int(child))


def _entries(pid: int) -> list[Path]:
    """The threads of a process; none if it has ended."""
    try:
        return [*Path(f"/proc/{pid}/task").iterdir()]
    except FileNotFoundError:
        return []
