"""Events that the hub sends itself while the tasks of the clients wait."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace

import pytest

from configsvc.app.watch import deliveries, selector
from configsvc.app.watch.events import Changed, Progress, Synced, WatchEvent
from configsvc.app.watch.hub import WatchHub
from configsvc.app.watch.selector import Selector
from configsvc.app.watch.store_reads import TAIL_WAIT_SECONDS
from configsvc.errors import Unavailable
from tests.app.fake_clock import FakeClock, settle, until
from tests.app.replica import Replica, config, write
from tests.app.watch.watching import ALL, PROGRESS_SECONDS, A, B, open_hub

pytestmark = pytest.mark.timeout(60)

BUFFER_CHANGES = 5


@pytest.fixture
async def hub(replica: Replica, clock: FakeClock) -> AsyncIterator[WatchHub]:
    opened = open_hub(replica, clock, BUFFER_CHANGES)
    yield opened
    opened.shutdown()


class Stream:
    """A client's stream. Like an engine's, it takes a message at once if it has room; else the task waits for room."""

    def __init__(self) -> None:
        self.is_full = False
        # Everything in the order of sending, and how many of these were sent past the task.
        self.sent: list[WatchEvent] = []
        self.past_task = 0
        self._room = asyncio.Event()

    def try_write(self, event: WatchEvent) -> bool:
        if self.is_full:
            return False
        self.sent.append(event)
        self.past_task += 1
        return True

    async def run(self, hub: WatchHub, selector: Selector) -> None:
        async with aclosing(hub.watch(selector, None, send_now=self.try_write)) as events:
            async for event in events:
                while self.is_full:
                    self._room.clear()
                    await self._room.wait()
                self.sent.append(event)

    def drain(self) -> None:
        self.is_full = False
        self._room.set()

    @property
    def revisions(self) -> list[int]:
        return [event.change.revision for event in self.sent if isinstance(event, Changed)]


async def start(hub: WatchHub, streams: Sequence[Stream], selector: Selector = ALL) -> "list[asyncio.Task[None]]":
    """Their clients, which wait for changes."""
    tasks = [asyncio.create_task(stream.run(hub, selector)) for stream in streams]
    await until(lambda: all(stream.sent and isinstance(stream.sent[-1], Synced) for stream in streams))
    await settle()
    return tasks


@asynccontextmanager
async def watching(hub: WatchHub, selector: Selector = ALL) -> AsyncIterator[Stream]:
    """A client that waits for changes."""
    stream = Stream()
    (task,) = await start(hub, [stream], selector)
    try:
        yield stream
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_change_is_sent_past_a_task_that_waits(replica: Replica, hub: WatchHub) -> None:
    async with watching(hub) as stream:
        for value in range(1, 4):
            await replica.put(A, value)
            assert stream.revisions[-1] == value, "without an iteration of the event loop"
        await settle()
        assert stream.revisions == [1, 2, 3]
        assert stream.past_task == 3


async def test_full_stream_gets_its_changes_from_the_task_and_then_past_it_again(
    replica: Replica, hub: WatchHub
) -> None:
    async with watching(hub) as stream:
        await replica.put(A, 1)
        stream.is_full = True
        for value in (2, 3):
            await replica.put(A, value)
        await settle()
        assert stream.revisions == [1]
        commit = await write(replica.storage, (A, 4))
        stream.drain()
        replica.tail.on_commit(commit)
        assert stream.revisions == [1], "nothing overtakes what the task has in hand"
        await settle()
        assert stream.revisions == [1, 2, 3, 4]
        assert stream.past_task == 1
        await replica.put(A, 5)
        assert (stream.revisions[-1], stream.past_task) == (5, 2)


async def test_stream_that_stays_full_keeps_its_bound_and_delays_nobody(replica: Replica, hub: WatchHub) -> None:
    async with watching(hub) as stuck, watching(hub) as quick:
        stuck.is_full = True
        watcher = next(iter(hub._watchers - {w for w in hub._watchers if w._send_now == quick.try_write}))
        for value in range(1, 101):
            await replica.put(A, value)
            await replica.put(B, value)
            await settle()
            assert len(list(watcher.backlog)) <= BUFFER_CHANGES
        assert quick.revisions == list(range(1, 201))
        stuck.drain()
        await settle()
        # The first one is what the task had in hand.
        assert stuck.revisions == [1, 199, 200]
        assert hub.conflated == 197


async def test_full_stream_of_many_keys_reads_the_log_and_is_then_sent_past_its_task_again(
    replica: Replica, hub: WatchHub
) -> None:
    async with watching(hub) as stream:
        stream.is_full = True
        for number in range(1, 21):
            await replica.put(config(f"key-{number}"), number)
            await settle()
        stream.drain()
        await until(lambda: len(stream.revisions) == 20)
        await settle()
        await replica.put(A, 21)
        assert stream.revisions == list(range(1, 22))
        assert replica.reader.reads > 0
        assert stream.past_task == 1


async def test_batch_is_sent_in_order_with_its_last_change_completing_it(replica: Replica, hub: WatchHub) -> None:
    only_b = replace(ALL, keys=frozenset({"b"}))
    async with watching(hub) as stream, watching(hub, only_b) as other:
        replica.tail.on_commit(await write(replica.storage, (A, 1), (B, 1), (config("c"), 1)))
        changes = [event for event in stream.sent if isinstance(event, Changed)]
        assert [(event.change.ref.key, event.completes) for event in changes] == [
            ("a", False),
            ("b", False),
            ("c", True),
        ]
        assert [event.completes for event in other.sent if isinstance(event, Changed)] == [True]


async def test_progress_is_sent_past_the_task_and_by_it_if_the_stream_is_full(
    replica: Replica, hub: WatchHub, clock: FakeClock
) -> None:
    async with watching(hub, Selector(ALL.kind, "other")) as stream:
        await replica.put(A, 1)
        await clock.advance(PROGRESS_SECONDS)
        assert (stream.sent[-1], stream.past_task) == (Progress(1), 1)
        stream.is_full = True
        await clock.advance(PROGRESS_SECONDS)
        stream.drain()
        await settle()
        assert (stream.sent[-2:], stream.past_task) == ([Progress(1), Progress(1)], 1)


async def test_progress_and_changes_of_a_full_stream_stay_in_order(
    replica: Replica, hub: WatchHub, clock: FakeClock
) -> None:
    async with watching(hub) as stream:
        stream.is_full = True
        await clock.advance(PROGRESS_SECONDS)
        await replica.put(A, 1)
        stream.drain()
        await settle()
        assert stream.sent[-2] == Progress(0)
        assert stream.revisions == [1]


async def test_many_watchers_are_sent_to_in_rounds(
    replica: Replica, hub: WatchHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others get the event loop in between. A watcher that leaves meanwhile gets nothing, and later changes wait."""
    monkeypatch.setattr(deliveries, "ROUND_MESSAGES", 2)
    streams = [Stream() for _ in range(5)]
    tasks = await start(hub, streams)
    await replica.put(A, 1)
    assert [stream.revisions for stream in streams] == [[1], [1], [], [], []]
    tasks[4].cancel()
    replica.tail.on_commit(await write(replica.storage, (A, 2)))
    await asyncio.gather(tasks[4], return_exceptions=True)
    await settle()
    assert [stream.revisions for stream in streams] == [[1, 2]] * 4 + [[]]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_watchers_that_wait_for_their_turn_end_with_the_hub(
    replica: Replica, hub: WatchHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "ROUND_MESSAGES", 1)
    streams = [Stream() for _ in range(3)]
    tasks = await start(hub, streams)
    await replica.put(A, 1)
    hub.shutdown()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert [stream.revisions for stream in streams] == [[1], [], []]
    assert [error.reason for error in ended if isinstance(error, Unavailable)] == ["SHUTTING_DOWN"] * 3
    await settle()
    assert [stream.revisions for stream in streams] == [[1], [], []]


async def test_change_that_a_later_page_of_the_snapshot_shows_is_not_sent_again(
    replica: Replica, hub: WatchHub, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The replica lags behind the store, and gets the change only after `Synced`."""
    monkeypatch.setattr(selector, "SNAPSHOT_RECORDS", 1)
    await replica.put(A, 1)
    await replica.put(B, 1)
    stream = Stream()
    replica.reader.release = asyncio.Event()
    task = asyncio.create_task(stream.run(hub, ALL))
    await replica.reader.is_holding.wait()
    commit = await write(replica.storage, (B, 2))
    replica.reader.release.set()
    await until(lambda: replica.reader.pages == 2)
    replica.reader.is_down = True
    async with asyncio.timeout(10):
        while not stream.sent or not isinstance(stream.sent[-1], Synced):
            await clock.advance(TAIL_WAIT_SECONDS)
    assert stream.sent[-1] == Synced(2)
    await settle()
    replica.tail.on_commit(commit)
    await replica.put(B, 3)
    assert (stream.revisions, stream.past_task) == ([4], 1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
