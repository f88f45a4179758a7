"""Rows that a process knows from its last groups: what is known, when it may be used, and how much of it is kept."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from configsvc.domain.lineage import Checkpoint, LogState
from configsvc.domain.records import Commit, Kind, Scope, Write
from configsvc.storage.port import Storage
from configsvc.storage.postgres.storage import PostgresStorage
from configsvc.storage.sql.group_state import GroupState, PlannedWrite
from configsvc.storage.sql.known_rows import KnownRows, plan_known
from configsvc.storage.sqlite.storage import SqliteStorage
from tests.conformance.storage.writing import author, config, create, increment, put, remove

START = LogState(5, 0, "history", 0, "digest")


def commit(known: KnownRows, start: LogState, *writes: Write) -> GroupState:
    """Commits a group of writes of records that do not exist before it."""
    state = GroupState(start)
    for write in writes:
        state.add_rows(write.reads, ())
        state.apply(state.plan(write))
    known.committed(start.end, state)
    return state


def test_written_row_is_known_at_the_end_of_the_log_and_nowhere_else() -> None:
    known = KnownRows()
    end = commit(known, START, put(config("a"), 1)).end
    state = known.state([put(config("a"), 2)], end)
    assert state is not None
    planned = plan_known(known, state, put(config("a"), 2))
    assert isinstance(planned, PlannedWrite)
    assert (planned.commit.revision, planned.commit.changes[0].version) == (7, 2)
    assert known.state([put(config("b"))], end) is None
    assert known.state([put(config("a"))], START.end) is None
    assert known.state([put(config("a"))], Checkpoint("history", end.revision, "other")) is None
    assert known.state([put(config("a"))], Checkpoint("other", end.revision, end.digest)) is None


def test_set_of_records_is_never_known() -> None:
    known = KnownRows()
    end = commit(known, START, put(config("a"))).end
    asking = Write(author(), (config("a"), Scope(Kind.CONFIG, "test")), lambda _: ())
    assert known.state([asking], end) is None


def test_record_that_does_not_exist_is_known_after_it_was_looked_for() -> None:
    known = KnownRows()
    end = commit(known, START, put(config("a")), Write(author(), (config("missing"),), lambda _: ())).end
    state = known.state([create(config("missing"))], end)
    assert state is not None
    planned = plan_known(known, state, create(config("missing")))
    assert isinstance(planned, PlannedWrite)
    assert planned.commit.changes[0].version == 1


def test_nothing_is_known_while_another_process_writes() -> None:
    known = KnownRows()
    commit(known, START, put(config("a")))
    elsewhere = LogState(9, 0, "history", 0, "theirs")
    end = commit(known, elsewhere, put(config("b"))).end
    assert known.state([put(config("b"))], end) is None
    # The next group finds the log where it left it.
    end = commit(known, LogState(end.revision, 0, end.history, 0, end.digest), put(config("c"))).end
    assert known.state([put(config("b")), put(config("c"))], end) is not None
    # What was known before the other process wrote is forgotten.
    assert known.state([put(config("a"))], end) is None


def test_failed_attempt_makes_the_next_group_read() -> None:
    known = KnownRows()
    end = commit(known, START, put(config("a"))).end
    known.must_be_read()
    assert known.state([put(config("a"))], end) is None
    end = commit(known, LogState(end.revision, 0, end.history, 0, end.digest), put(config("b"))).end
    assert known.state([put(config("a"))], end) is not None


def test_known_rows_are_bounded_in_bytes_and_the_newest_stay() -> None:
    known = KnownRows(max_bytes=20_000)
    state = commit(known, START, *(put(config(f"k{number}"), "x" * 1_000) for number in range(100)))
    found = [number for number in range(100) if known.state([put(config(f"k{number}"))], state.end) is not None]
    assert found
    assert found == list(range(found[0], 100))
    assert len(found) < 20
    end = commit(known, START, put(config("large"), "x" * 30_000)).end
    assert known.state([put(config("large"))], end) is None


def test_failed_write_that_may_be_a_retry_is_planned_from_the_database() -> None:
    known = KnownRows()
    end = commit(known, START, put(config("a"))).end
    again = create(config("a"), by=author("request"))
    state = known.state([again], end)
    assert state is not None
    assert plan_known(known, state, again) is None
    assert isinstance(plan_known(known, state, create(config("a"))), Exception)


@dataclass(frozen=True)
class Step:
    """Writes that replica `replica` makes at the same time. With `leap`, it gives the log a new history first."""

    replica: int
    writes: tuple[tuple[str, str, str], ...]
    leap: bool = False


MAKE = {"put": put, "create": create, "remove": remove, "increment": increment}
WRITES = st.tuples(st.sampled_from(sorted(MAKE)), st.sampled_from("abc"), st.sampled_from(["", "", "r1", "r2"]))
STEPS = st.lists(
    st.builds(Step, st.integers(0, 1), st.lists(WRITES, min_size=1, max_size=4).map(tuple), st.just(False))
    | st.builds(Step, st.integers(0, 1), st.just((("put", "a", ""),)), st.booleans()),
    min_size=1,
    max_size=8,
)


async def outcomes_of_step(storage: Storage, step: Step) -> list[object]:
    """What each write of the step gave."""
    found: list[object] = []
    if step.leap:
        await storage.new_history("test")
    writes = [
        MAKE[what](config(key), by=author(request), fingerprint=f"{what} {key}") for what, key, request in step.writes
    ]
    for one in await asyncio.gather(*map(storage.write, writes), return_exceptions=True):
        assert isinstance(one, Commit | Exception)
        if isinstance(one, Commit):
            changes = [(each.ref.key, each.version, each.action, each.before, each.after) for each in one.changes]
            found.append((one.revision, one.replayed, changes))
        else:
            found.append((type(one), str(one)))
    return found


# Opens a replica's storage, by the replica's number.
Open = Callable[[int], AbstractAsyncContextManager[Storage]]


async def outcomes(open_storage: Open, steps: Sequence[Step]) -> list[object]:
    """What each write gave."""
    found: list[object] = []
    for step in steps:
        async with open_storage(step.replica) as storage:
            found += await outcomes_of_step(storage, step)
    return found


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=20)
@given(STEPS)
async def test_storages_that_know_rows_answer_like_one_that_reads_them(
    postgres_url: str, tmp_path_factory: pytest.TempPathFactory, steps: list[Step]
) -> None:
    """The oracle is opened again for each step: it knows nothing, and reads every row."""
    folder: Path = tmp_path_factory.mktemp("known")
    async with AsyncExitStack() as stack:
        replicas = [await stack.enter_async_context(PostgresStorage(postgres_url)) for _ in range(2)]
        async with await psycopg.AsyncConnection.connect(postgres_url, autocommit=True) as connection:
            await connection.execute("TRUNCATE configsvc.records, configsvc.changes, configsvc.requests")
            await connection.execute("UPDATE configsvc.counter SET head = 0, since = 0, digest = ''")
        single = await stack.enter_async_context(SqliteStorage(folder / "known.db"))
        expected = await outcomes(lambda _: SqliteStorage(folder / "oracle.db"), steps)
        assert await outcomes(lambda replica: nullcontext(replicas[replica]), steps) == expected
        assert await outcomes(lambda _: nullcontext(single), steps) == expected
        oracle = await stack.enter_async_context(SqliteStorage(folder / "oracle.db"))
        stored = [[change.after for change in await one.read(0, 1_000)] for one in (oracle, replicas[1], single)]
        assert stored[0] == stored[1] == stored[2]
