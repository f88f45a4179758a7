"""Writes until the test kills it, and prints each acknowledged write: a line `number revision`."""

import asyncio
import sys
from datetime import UTC, datetime
from pathlib import Path

from configsvc.domain.records import Action, Author, Kind, Put, Ref, Write
from configsvc.storage.sqlite.storage import SqliteStorage

WRITERS = 8


async def main(path: Path, start: int) -> None:
    author = Author("crash", "", "", datetime.now(UTC))
    async with SqliteStorage(path) as storage:

        async def write_on(first: int) -> None:
            number = first
            while True:
                ref = Ref(Kind.CONFIG, "crash", "", f"k{number}")
                put = Put(ref, {"value": number}, Action.CREATE)
                commit = await storage.write(Write(author, (ref,), lambda view, put=put: (put,)))  # type: ignore[misc]
                sys.stdout.write(f"{number} {commit.revision}\n")
                sys.stdout.flush()
                number += WRITERS

        await asyncio.gather(*(write_on(start + writer) for writer in range(WRITERS)))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
