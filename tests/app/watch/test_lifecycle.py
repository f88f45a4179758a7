"""Registration of watches: closing, the limit, shutdown."""

import asyncio

import pytest

from configsvc.app.watch.events import Synced
from configsvc.app.watch.hub import WatchHub
from configsvc.errors import ResourceExhausted, Unavailable
from tests.app.fake_clock import FakeClock, settle
from tests.app.replica import Replica
from tests.app.watch.watching import ALL, A, open_hub, open_snapshot, take

pytestmark = pytest.mark.timeout(60)


async def test_closing_a_watch_unregisters_it(hub: WatchHub) -> None:
    events = hub.watch(ALL, None)
    assert hub.watchers == 0
    await anext(events)
    assert hub.watchers == 1
    await events.aclose()
    assert hub.watchers == 0
    waiting = asyncio.ensure_future(take(hub.watch(ALL, None), 2))
    await settle()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await settle()
    assert hub.watchers == 0


async def test_too_many_watches_are_refused(replica: Replica, clock: FakeClock) -> None:
    hub = open_hub(replica, clock, max_watchers=2)
    first, second = hub.watch(ALL, None), hub.watch(ALL, None)
    await anext(first)
    await anext(second)
    with pytest.raises(ResourceExhausted) as caught:
        await anext(hub.watch(ALL, None))
    assert caught.value.reason == "TOO_MANY_WATCHES"
    await first.aclose()
    assert await anext(hub.watch(ALL, None)) == Synced(0)


async def test_shutdown_ends_every_watch_and_refuses_new_ones(replica: Replica, hub: WatchHub) -> None:
    idle, busy, opening = hub.watch(ALL, None), hub.watch(ALL, None), hub.watch(ALL, None)
    for events in (idle, busy):
        await open_snapshot(events)
    waiting = asyncio.ensure_future(anext(idle))
    replica.reader.release = asyncio.Event()
    reading = asyncio.ensure_future(anext(opening))
    await replica.reader.is_holding.wait()
    await replica.put(A, 1)
    await replica.put(A, 2)
    await waiting
    waiting = asyncio.ensure_future(anext(idle))
    hub.shutdown()
    replica.reader.release.set()
    for ended in (waiting, reading, anext(busy), anext(hub.watch(ALL, None))):
        with pytest.raises(Unavailable) as caught:
            await ended
        assert caught.value.reason == "SHUTTING_DOWN"
    assert hub.watchers == 0
