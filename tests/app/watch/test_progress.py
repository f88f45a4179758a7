"""Progress: how far an idle watcher is."""

import asyncio
from dataclasses import replace

import pytest

from configsvc.app.watch.events import Progress, Snapshot, Synced
from configsvc.app.watch.hub import WatchHub
from tests.app.fake_clock import FakeClock
from tests.app.replica import Replica, write
from tests.app.watch.watching import ALL, PROGRESS_SECONDS, A, changes_in, open_snapshot, take

pytestmark = pytest.mark.timeout(60)


async def test_idle_watcher_gets_progress(replica: Replica, hub: WatchHub, clock: FakeClock) -> None:
    """Otherwise it would resume at a revision that was compacted away, although nothing that it watches has changed."""
    events = hub.watch(replace(ALL, service="other"), None)
    await open_snapshot(events)
    waiting = asyncio.ensure_future(anext(events))
    await replica.put(A, 1)
    await replica.put(A, 2)
    await clock.advance(PROGRESS_SECONDS - 0.1)
    assert not waiting.done()
    await clock.advance(0.2)
    assert await waiting == Progress(2)
    await replica.put(A, 3)
    await clock.advance(PROGRESS_SECONDS)
    assert await anext(events) == Progress(3)


async def test_watcher_that_gets_changes_gets_no_progress(replica: Replica, hub: WatchHub, clock: FakeClock) -> None:
    events = hub.watch(ALL, None)
    await open_snapshot(events)
    for value in range(1, 10):
        await clock.advance(PROGRESS_SECONDS * 0.9)
        await replica.put(A, value)
        assert changes_in([await anext(events)]) == [(value, "a", value)]


async def test_progress_never_comes_before_a_change_that_it_covers(
    replica: Replica, hub: WatchHub, clock: FakeClock
) -> None:
    events = hub.watch(ALL, None)
    await open_snapshot(events)
    waiting = asyncio.ensure_future(anext(events))
    await clock.advance(PROGRESS_SECONDS)
    assert await waiting == Progress(0)
    await replica.put(A, 1)
    await replica.put(A, 2)
    await clock.advance(PROGRESS_SECONDS * 5)
    assert changes_in(await take(events, 2)) == [(1, "a", 1), (2, "a", 2)]
    await clock.advance(PROGRESS_SECONDS)
    await replica.put(A, 3)
    progress, change = await take(events, 2)
    assert progress == Progress(2)
    assert changes_in([change]) == [(3, "a", 3)]


async def test_progress_never_goes_back_on_a_lagging_replica(replica: Replica, hub: WatchHub, clock: FakeClock) -> None:
    await clock.asleep()
    for value in range(1, 4):
        await write(replica.storage, (A, value))
    events = hub.watch(ALL, 3)
    assert await anext(events) == Synced(3)
    replica.reader.is_down = True
    waiting = asyncio.ensure_future(anext(events))
    await clock.advance(PROGRESS_SECONDS)
    assert replica.tail.applied == 0
    assert await waiting == Progress(3)


async def test_no_progress_before_synced(replica: Replica, hub: WatchHub, clock: FakeClock) -> None:
    await replica.put(A, 1)
    replica.reader.release = asyncio.Event()
    events = hub.watch(ALL, None)
    opening = asyncio.ensure_future(anext(events))
    await replica.reader.is_holding.wait()
    await clock.advance(PROGRESS_SECONDS * 3)
    replica.reader.release.set()
    assert isinstance(await opening, Snapshot)
    assert await anext(events) == Synced(1)
