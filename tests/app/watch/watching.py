"""What the tests of watches share."""

from collections.abc import AsyncGenerator

from configsvc.app.watch.events import Changed, Snapshot, Synced, WatchEvent
from configsvc.app.watch.hub import WatchHub
from configsvc.app.watch.selector import Selector
from configsvc.domain.records import Kind, Ref
from tests.app.fake_clock import FakeClock
from tests.app.replica import Replica, config

Events = AsyncGenerator[WatchEvent, None]
ALL = Selector(Kind.CONFIG, "test")
PROGRESS_SECONDS = 10.0
A, B = config("a"), config("b")


def open_hub(replica: Replica, clock: FakeClock, buffer_changes: int = 100, max_watchers: int = 100) -> WatchHub:
    return replica.following(
        WatchHub(
            tail=replica.tail,
            reader=replica.reader,
            log=replica.reader,
            clock=clock,
            buffer_changes=buffer_changes,
            progress_seconds=PROGRESS_SECONDS,
            max_watchers=max_watchers,
        )
    )


async def take(events: Events, number: int) -> list[WatchEvent]:
    return [await anext(events) for _ in range(number)]


async def open_snapshot(events: Events) -> tuple[dict[Ref, object], int]:
    """The values of the snapshot, and the revision of `Synced`."""
    state: dict[Ref, object] = {}
    while True:
        event = await anext(events)
        if isinstance(event, Synced):
            return state, event.revision
        assert isinstance(event, Snapshot)
        state.update((record.ref, record.body["value"]) for record in event.records)


def changes_in(events: list[WatchEvent]) -> list[tuple[int, str, object]]:
    """Changes as (revision, key, value)."""
    return [
        (event.change.revision, event.change.ref.key, (event.change.after or {"value": None})["value"])
        for event in events
        if isinstance(event, Changed)
    ]
