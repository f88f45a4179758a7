"""Batches in a watch: a client that is cut off after any message, and resumes as the proto says, loses nothing."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configsvc.app.watch import store_reads
from configsvc.app.watch.events import Changed, Progress, Synced, WatchEvent
from configsvc.app.watch.hub import WatchHub
from configsvc.app.watch.selector import Selector
from configsvc.domain.records import Change, Kind, Ref
from tests.app.fake_clock import FakeClock, settle
from tests.app.replica import Replica, config, open_replica, open_storage, write

pytestmark = pytest.mark.timeout(120)

ALL = Selector(Kind.CONFIG, "test")
# For most of them, the last matching change of a batch is not the last change of the batch.
SELECTORS = (
    ALL,
    Selector(Kind.CONFIG, "test", service="svc"),
    Selector(Kind.CONFIG, "test", keys=frozenset({"a", "k1"})),
    Selector(Kind.CONFIG, "test", prefix="k"),
)
REFS = [config(key, service) for key in ("a", "b", "k1", "k2") for service in ("", "svc")]
REFS += [config("k1", environment="other"), Ref(Kind.FLAG, "test", "", "f")]
BATCHES = st.lists(st.lists(st.sampled_from(REFS), min_size=1, max_size=6, unique=True), min_size=1, max_size=8)
PROGRESS_SECONDS = 10.0


@pytest.fixture(autouse=True)
def _small_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_reads, "CATCH_UP_CHANGES", 3)


@asynccontextmanager
async def opened(buffer_changes: int = 1_000) -> AsyncIterator[tuple[Replica, WatchHub, FakeClock]]:
    clock = FakeClock()
    with TemporaryDirectory() as folder:
        async with open_storage(Path(folder)) as storage, open_replica(storage, clock) as replica:
            hub = replica.following(
                WatchHub(
                    tail=replica.tail,
                    reader=storage,
                    log=storage,
                    clock=clock,
                    buffer_changes=buffer_changes,
                    progress_seconds=PROGRESS_SECONDS,
                )
            )
            yield replica, hub, clock
            hub.shutdown()


async def write_all(replica: Replica, batches: Sequence[Sequence[Ref]]) -> list[Change]:
    """One revision for each batch, each applied by the tail after its write."""
    changes: list[Change] = []
    for number, batch in enumerate(batches):
        commit = await write(replica.storage, *((ref, number) for ref in batch))
        replica.tail.on_commit(commit)
        changes += commit.changes
    return changes


def resume_revision(events: Sequence[WatchEvent]) -> int:
    """As the proto says: the revision of the last message that completes a revision."""
    marks = [
        event.change.revision if isinstance(event, Changed) else event.revision
        for event in events
        if isinstance(event, Synced | Progress) or (isinstance(event, Changed) and event.completes)
    ]
    return marks[-1]


def changes_in(events: Sequence[WatchEvent]) -> list[Change]:
    return [event.change for event in events if isinstance(event, Changed)]


async def take(events: AsyncGenerator[WatchEvent, None], number: int) -> list[WatchEvent]:
    return [await anext(events) for _ in range(number)]


@settings(max_examples=60, deadline=None)
@given(batches=BATCHES, selector=st.sampled_from(SELECTORS), way=st.sampled_from(["replayed", "live"]))
async def test_client_cut_off_after_any_message_resumes_without_loss(
    batches: list[list[Ref]], selector: Selector, way: str
) -> None:
    async with opened() as (replica, hub, _):
        number = sum(selector.matches(ref) for batch in batches for ref in batch)
        live = [hub.watch(selector, None) for _ in range(number + 1)] if way == "live" else []
        for events in live:
            assert await anext(events) == Synced(0)
        expected = [change for change in await write_all(replica, batches) if selector.matches(change.ref)]
        for length in range(number + 1):
            async with aclosing(live[length] if live else hub.watch(selector, 0)) as events:
                seen: list[WatchEvent] = [Synced(0) if live else await anext(events)]
                seen += await take(events, length)
            after = resume_revision(seen)
            # Complete revisions have all their changes, and only the last revision can be incomplete.
            left_over = [change for change in changes_in(seen) if change.revision > after]
            assert changes_in(seen)[: length - len(left_over)] == [c for c in expected if c.revision <= after]
            assert {change.revision for change in left_over} <= {expected[length].revision if length < number else 0}
            async with aclosing(hub.watch(selector, after)) as events:
                again = await take(events, 1 + number - length + len(left_over))
            assert again[0] == Synced(after)
            assert changes_in(seen)[: length - len(left_over)] + changes_in(again) == expected


@settings(max_examples=40, deadline=None)
@given(batches=BATCHES, buffer_changes=st.sampled_from((1, 2, 4, 1_000)), length=st.integers(0, 20))
async def test_slow_watcher_that_is_cut_off_resumes_without_loss(
    batches: list[list[Ref]], buffer_changes: int, length: int
) -> None:
    """A conflated change is followed by a newer one of its record, so the final state is right."""
    async with opened(buffer_changes) as (replica, hub, _):
        watcher = hub.watch(ALL, None)
        assert await anext(watcher) == Synced(0)
        expected = [change for change in await write_all(replica, batches) if ALL.matches(change.ref)]
        newest = {change.ref: change.revision for change in expected}
        held: dict[Ref, int] = {}
        seen: list[WatchEvent] = [Synced(0)]
        while len(seen) <= length and held != newest:
            seen.append(event := await anext(watcher))
            held |= {change.ref: change.revision for change in changes_in([event])}
        await watcher.aclose()
        after = resume_revision(seen)
        async with aclosing(hub.watch(ALL, after)) as events:
            again = await take(events, 1 + sum(change.revision > after for change in expected))
        held |= {change.ref: change.revision for change in changes_in(again)}
        assert held == newest


async def test_client_can_resume_at_the_progress_after_a_batch() -> None:
    async with opened() as (replica, hub, clock), aclosing(hub.watch(SELECTORS[2], None)) as events:
        assert await anext(events) == Synced(0)
        await write_all(replica, [[config("a"), config("b"), config("k1"), config("k2")]])
        assert [event.completes for event in await take(events, 2) if isinstance(event, Changed)] == [False, True]
        await write_all(replica, [[config("b"), config("k2")]])
        await settle()
        await clock.advance(PROGRESS_SECONDS)
        assert await anext(events) == Progress(2)
