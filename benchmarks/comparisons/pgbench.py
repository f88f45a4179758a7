"""The transaction of one update, by PostgreSQL's own client, on a database with our schema."""

import asyncio
import re
import subprocess
import tempfile
from pathlib import Path

from benchmarks.measure import Measured
from benchmarks.peers import Program
from benchmarks.placement import Placement
from configsvc.storage.postgres.storage import PostgresStorage

SCRIPT = Path(__file__).parent / "update.sql"


class Pgbench:
    """Runs the script with so many clients."""

    def __init__(self, program: Program, placement: Placement, url: str, in_flight: int) -> None:
        asyncio.run(_with_schema(url))
        self._command = [
            *(*placement.on_load(), *program.command, "--no-vacuum", "--file", str(SCRIPT), "--protocol", "prepared"),
            *("--client", str(in_flight), "--jobs", "1", url),
        ]

    def per_second(self, seconds: float) -> Measured:
        """Transactions a second."""
        return Measured(self._found(seconds, r"tps = ([0-9.]+)"))

    def microseconds(self, seconds: float) -> Measured:
        """The mean, which is all that pgbench tells."""
        return Measured(self._found(seconds, r"latency average = ([0-9.]+) ms") * 1e3)

    def _found(self, seconds: float, pattern: str) -> float:
        with tempfile.TemporaryDirectory() as directory:
            # pgbench counts whole seconds.
            length = ["--time", str(round(seconds))] if seconds >= 0.5 else ["--transactions", "3"]
            command = [*self._command, *length]
            done = subprocess.run(command, capture_output=True, text=True, cwd=directory, check=False)
        if "failed transactions: 0 " not in done.stdout:
            raise AssertionError(f"pgbench said:\n{done.stdout}{done.stderr}")
        # Many clients that wait for one row may finish none in a short round.
        found = re.search(pattern, done.stdout)
        return float(found[1]) if found else 0.0


async def _with_schema(url: str) -> None:
    async with PostgresStorage(url):
        pass
