"""The worker processes, and how one is replaced.

A worker has two places, `a` and `b`, which its processes use in turns: while a process answers at one, the next starts at
the other. A place has a socket and a replica id of its own, since two processes with one id would fight over the instances
and over the node in ZooKeeper. If a backend is embedded, the next process waits for its turn: it opens nothing until the
other has ended. Then both have the same id, so that the instances stay with it.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from configsvc.gateway.children import Child
from configsvc.settings import Settings, child_environment

PLACES = ("a", "b")
# What a worker says of itself in its state file (`process.py`).
WAITING, SERVING = "waiting", "serving"


@dataclass(frozen=True, slots=True)
class Worker:
    """One process of a worker. `address` is where it answers, `state_file` where it says how far its start is."""

    number: int
    place: str
    address: str
    state_file: Path
    child: Child

    def state(self) -> str:
        """`WAITING` for its turn, `SERVING` complete answers, or empty."""
        try:
            return self.state_file.read_text("ascii")
        except OSError:
            return ""


class Workers:
    """Makes the workers of a run. `directory` is for their sockets and files."""

    def __init__(self, settings: Settings, directory: Path) -> None:
        self._settings = settings
        self._directory = directory
        self.take_turns = bool(settings.embedded)

    def first(self) -> list[Worker]:
        """The workers with which a run begins."""
        return [self._make(number, PLACES[0]) for number in range(self._settings.workers)]

    def successor(self, worker: Worker) -> Worker:
        """The next process of a worker, at its other place."""
        return self._make(worker.number, PLACES[1 - PLACES.index(worker.place)])

    def _make(self, number: int, place: str) -> Worker:
        name = f"{number}-{place}"
        socket, state_file = self._directory / f"worker-{name}.sock", self._directory / f"worker-{name}.state"
        instance_id = self._settings.service_instance_id + (f"-{number}" if self._settings.workers > 1 else "")
        if place != PLACES[0] and not self.take_turns:
            instance_id += f"-{place}"
        address = f"unix:{socket}"
        command = [
            sys.executable, "-m", "configsvc", "serve", "--listen", address, "--state-file", str(state_file),
            *(("--turn", str(self._directory / f"worker-{number}.turn")) if self.take_turns else ()),
        ]  # fmt: skip
        # What a killed worker leaves is removed with the run's directory.
        changes = {"SERVICE_INSTANCE_ID": instance_id, "TMPDIR": str(self._directory)}
        child = Child(f"worker {number}", command, child_environment(self._settings, **changes))
        return Worker(number, place, address, state_file, child)
