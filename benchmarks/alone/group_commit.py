"""Writes of one configuration straight into the storage: group commit without RPC."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from benchmarks.alone.commands import Work, main
from benchmarks.targets.configsvc import ENVIRONMENT, KEY, VALUE
from configsvc.domain.records import Action, Author, Kind, Mutation, Put, Ref, View, Write
from configsvc.storage.postgres.storage import PostgresStorage


@asynccontextmanager
async def opened(config: dict[str, Any]) -> AsyncIterator[Work]:
    """`url`: the database."""
    ref, body = Ref(Kind.CONFIG, ENVIRONMENT, "", KEY), {"value": VALUE, "description": ""}

    def decide(view: View) -> Sequence[Mutation]:
        return [Put(ref, body, Action.UPDATE if view.get(ref) else Action.CREATE)]

    async with PostgresStorage(config["url"]) as storage:

        async def write(_worker: int) -> None:
            await storage.write(Write(Author("bench", "", "", datetime.now(UTC)), (ref,), decide, ""))

        yield write


if __name__ == "__main__":
    main(opened)
