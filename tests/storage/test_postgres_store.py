"""The statement that stores a group on PostgreSQL stores all of it, or nothing if the log has moved on."""

from dataclasses import replace

import pytest

from configsvc.domain.lineage import Checkpoint, LogState
from configsvc.storage.postgres.round_trip import RoundTripConnection
from configsvc.storage.postgres.storage import PostgresStorage
from configsvc.storage.postgres.store import store_statement
from configsvc.storage.sql.group_state import GroupState, PlannedWrite
from tests.conformance.storage.writing import author, config, put


def planned(state: GroupState, *keys: str) -> list[PlannedWrite]:
    """One write of each key, none of which exists."""
    writes = []
    for number, key in enumerate(keys):
        write = put(config(key), number, by=author(f"request-{state.head}-{number}"))
        state.add_rows(write.reads, ())
        writes.append(state.plan(write))
        state.apply(writes[-1])
    return writes


async def run(url: str, writes: list[PlannedWrite], start: Checkpoint, end: Checkpoint) -> int:
    """Stores; returns how many rows say so."""
    async with await RoundTripConnection.connect(url, autocommit=True) as connection:
        (rows,) = await connection.run([store_statement(writes, start, end)])
        return len(rows)


async def contents(storage: PostgresStorage) -> tuple[LogState, int, int]:
    """The log's state, the number of its changes and that of the records `a`, `b` and `c`."""
    view = await storage.get([config(key) for key in "abc"])
    return await storage.state(), len(await storage.read(0, 100)), len(view.records)


async def test_group_is_stored_at_its_place_in_the_log(postgres_url: str) -> None:
    async with PostgresStorage(postgres_url) as storage:
        state = GroupState(await storage.state())
        start = state.end
        assert await run(postgres_url, planned(state, "a", "b", "a"), start, state.end) == 1
        found, changes, records = await contents(storage)
        assert (found.end, changes, records) == (state.end, 3, 2)
        record = (await storage.get([config("a")])).records[config("a")]
        assert (record.version, record.revision, record.body) == (2, 3, {"value": 2})


@pytest.mark.parametrize("moved", [{"revision": 7}, {"digest": "other"}, {"history": "other"}])
async def test_group_that_was_planned_elsewhere_is_not_stored(postgres_url: str, moved: dict[str, object]) -> None:
    async with PostgresStorage(postgres_url) as storage:
        await storage.write(put(config("before")))
        before = await contents(storage)
        state = GroupState(await storage.state())
        start = replace(state.end, **moved)  # type: ignore[arg-type]
        writes = planned(state, "a", "b")
        assert await run(postgres_url, writes, start, state.end) == 0
        assert await contents(storage) == before
        # The request ids are still free.
        assert not (await storage.write(put(config("c"), by=author(writes[0].request[0])))).replayed  # type: ignore[index]
