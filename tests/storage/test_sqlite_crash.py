"""`kill -9` during writes, 50 times on one file: no acknowledged write is lost, and revisions have no gap."""

import random
import subprocess
import sys
from pathlib import Path

from configsvc.domain.records import Kind
from configsvc.storage.port import RecordQuery
from configsvc.storage.sqlite.storage import SqliteStorage

KILLS = 50
WRITER = Path(__file__).with_name("crash_writer.py")
SPACING = 1_000_000


async def test_every_acknowledged_write_survives_fifty_kills(tmp_path: Path) -> None:
    path = tmp_path / "configsvc.db"
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    acknowledged: dict[str, int] = {}
    for kill in range(KILLS):
        command = [sys.executable, str(WRITER), str(path), str(kill * SPACING)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            lines = [writer.stdout.readline() for _ in range(chance.randint(1, 60))]
            writer.kill()
            # Writes that are still in the pipe were acknowledged too; the last line may be incomplete.
            lines += [line for line in writer.stdout if line.endswith("\n")]
        for line in lines:
            number, revision = line.split()
            acknowledged[f"k{number}"] = int(revision)
    assert len(acknowledged) >= KILLS
    async with SqliteStorage(path) as storage:
        page = await storage.page(RecordQuery(Kind.CONFIG, "crash", limit=10**6))
        found = {record.ref.key: record.revision for record in page.records}
        assert acknowledged.items() <= found.items(), f"lost, with seed {seed}"
        head = (await storage.state()).head
        changes = await storage.read(0, 10**6)
        assert [change.revision for change in changes] == list(range(1, head + 1)), f"a gap, with seed {seed}"
