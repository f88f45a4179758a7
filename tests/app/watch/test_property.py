"""Random writers and watchers: each watcher ends with the store's state, and never goes back on its way there."""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configsvc.app.watch import selector, store_reads
from configsvc.app.watch.events import Changed, Progress, Snapshot, Synced, WatchEvent
from configsvc.app.watch.hub import WatchHub
from configsvc.app.watch.selector import Selector
from configsvc.clock import SystemClock
from configsvc.domain.records import Change, Kind, Record, Ref, Scope
from configsvc.storage.port import Storage
from tests.app.replica import Replica, config, live, open_replica, open_storage, write

SCOPE = Scope(Kind.CONFIG, "test")
SELECTORS = (
    Selector(Kind.CONFIG, "test"),
    Selector(Kind.CONFIG, "test", service="svc"),
    Selector(Kind.CONFIG, "test", keys=frozenset({"a", "b", "e", "k-last"})),
    Selector(Kind.CONFIG, "test", prefix="k"),
)
REFS = [config(key, service) for key in ("a", "b", "c", "e", "k1", "k2", "k3") for service in ("", "svc")]
# Every selector matches it.
LAST = config("k-last")
BIG = 10_000


@dataclass
class Client:
    """A client that applies what it is sent, and asserts that this never goes back and is in order."""

    selector: Selector
    # Set once `Synced` has come: the revision to resume after, as proto/configsvc/v1/watch.proto says it.
    revision: int | None = None
    state: dict[Ref, Record] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    # What it held at `Synced`, the revision of `Synced`, and the head of the log when it had come.
    opening: dict[Ref, Record] = field(default_factory=dict)
    began_after: int = 0
    opened_by: int = 0
    # It has resumed at a revision below that of a record that it holds: at a `Synced` that is older than parts of its
    # snapshot (see app/watch/snapshot.py), or before a batch that was cut off. The changes to those records come again.
    is_ahead: bool = False
    # It has an event that it has not dealt with: nothing may be sent past its task now.
    is_busy: bool = False

    @property
    def has_everything(self) -> bool:
        """Whether nothing up to the last write is missing. A snapshot can show the last write before it is complete."""
        last = self.state.get(LAST)
        return last is not None and self.revision is not None and self.revision >= last.revision

    def take(self, event: WatchEvent) -> None:
        if isinstance(event, Snapshot):
            assert self.revision is None, "a snapshot after Synced"
            for record in event.records:
                held = self.state.get(record.ref)
                assert held is None or held.revision < record.revision, "a snapshot goes back"
                self.state[record.ref] = record
        elif isinstance(event, Synced):
            assert self.revision is None, "a second Synced"
            self.began_after, self.opening = event.revision, dict(self.state)
            self.revision = event.revision
        elif isinstance(event, Progress):
            assert self.revision is not None, "progress before Synced"
            assert event.revision >= self.revision, "progress goes back"
            self.revision = event.revision
        elif isinstance(event, Changed):
            self._change(event)

    def _change(self, event: Changed) -> None:
        change = event.change
        assert self.revision is not None, "a change before Synced"
        assert self.selector.matches(change.ref)
        if self.changes:
            last = self.changes[-1]
            assert (change.revision, change.ordinal) > (last.revision, last.ordinal), "out of order or twice"
        assert change.revision > self.revision, "a change of a revision that was complete"
        held = self.state.get(change.ref)
        if not self.is_ahead:
            assert held is None or held.revision < change.revision, "an older change over a newer state"
        self.changes.append(change)
        if event.completes:
            self.revision = change.revision
        if change.record is None:
            self.state.pop(change.ref, None)
        else:
            self.state[change.ref] = change.record


@dataclass
class World:
    """One storage, and two replicas with a hub each."""

    random: Random
    storage: Storage
    replicas: list[Replica]
    hubs: list[WatchHub]
    # How many of the events that are sent past a client's task are refused, as by a stream without room. 1: all of them.
    refused: float
    sent_past_tasks: int = 0
    failures: list[AssertionError] = field(default_factory=list)

    async def pause(self, most: int) -> None:
        for _ in range(self.random.randrange(most)):
            await asyncio.sleep(0)

    async def write_some(self, number: int, owned: list[Ref]) -> None:
        """Each writer has its own refs, so that it knows which of them are live."""
        live_refs: set[Ref] = set()
        for turn in range(number):
            chosen = self.random.sample(owned, self.random.randint(1, min(3, len(owned))))
            values = [(ref, None if ref in live_refs and self.random.random() < 0.4 else turn) for ref in chosen]
            for ref, value in values:
                (live_refs.discard if value is None else live_refs.add)(ref)
            commit = await write(self.storage, *values)
            await self.pause(4)
            self.random.choice(self.replicas).tail.on_commit(commit)

    async def watch_to_the_end(self, slowness: int, whole: bool) -> Client:
        """Watches from a snapshot until the last write; unless `whole`, disconnects now and then, and resumes anywhere."""
        client = Client(self.random.choice(SELECTORS))
        await self.pause(60)
        while not client.has_everything:
            events = BIG if whole else self.random.randint(1, 30)
            await self._connect(client, slowness, events)
        return client

    async def _connect(self, client: Client, slowness: int, most_events: int) -> None:
        if client.revision is None:
            # It was cut off before `Synced`, and drops what it has.
            client.state.clear()
        resumed = client.revision is not None
        after = client.revision
        if after is not None:
            # A batch that was cut off comes again as a whole.
            while client.changes and client.changes[-1].revision > after:
                client.changes.pop()
            client.is_ahead = any(record.revision > after for record in client.state.values())
        left = [most_events]

        def send_now(event: Changed | Progress) -> bool:
            try:
                assert not client.is_busy, "sent past a task that has something in hand"
                # The task must see the end, or it would wait for another event.
                is_end = (
                    left[0] <= 1 or LAST in client.state or (isinstance(event, Changed) and event.change.ref == LAST)
                )
                if is_end or self.random.random() < self.refused:
                    return False
                client.take(event)
                left[0] -= 1
                self.sent_past_tasks += 1
            except AssertionError as error:
                self.failures.append(error)
            return True

        hub = self.random.choice(self.hubs)
        async with aclosing(hub.watch(client.selector, after, send_now=send_now)) as events:
            async for event in events:
                client.is_busy = True
                if resumed and isinstance(event, Synced):
                    assert event.revision == after
                    client.is_busy = False
                    continue
                client.take(event)
                if isinstance(event, Synced):
                    client.opened_by = (await self.storage.state()).head
                left[0] -= 1
                if client.has_everything or left[0] <= 0:
                    break
                await self.pause(slowness)
                client.is_busy = False
        client.is_busy = False


async def play(seed: int, *, buffer_changes: int, watchers: int, slowness: int, whole: bool, refused: float = 1) -> int:
    """Returns how many events were sent past the clients' tasks."""
    random = Random(seed)
    with TemporaryDirectory() as folder:
        async with AsyncExitStack() as stack:
            storage = await stack.enter_async_context(open_storage(Path(folder)))
            clock = SystemClock()
            replicas = [await stack.enter_async_context(open_replica(storage, clock)) for _ in range(2)]
            hubs = [
                replica.following(
                    WatchHub(
                        tail=replica.tail,
                        reader=storage,
                        log=storage,
                        clock=clock,
                        buffer_changes=buffer_changes,
                        progress_seconds=0.001,
                    )
                )
                for replica in replicas
            ]
            for hub in hubs:
                stack.callback(hub.shutdown)
            world = World(random, storage, replicas, hubs, refused)
            refs = REFS.copy()
            random.shuffle(refs)
            watching = [
                asyncio.ensure_future(world.watch_to_the_end(random.choice((1, slowness)), whole))
                for _ in range(watchers)
            ]
            await asyncio.gather(*(world.write_some(12, refs[part::3]) for part in range(3)))
            commit = await write(storage, (LAST, "end"))
            replicas[0].tail.on_commit(commit)
            await replicas[1].tail.wait_for(commit.revision, None)
            clients = await asyncio.gather(*watching)
            assert not world.failures
            await check(storage, clients, complete=buffer_changes >= BIG)
            return world.sent_past_tasks


def state_at(revision: int, changes: list[Change]) -> dict[Ref, Record]:
    newest = {change.ref: change.record for change in changes if change.revision <= revision}
    return {ref: record for ref, record in newest.items() if record is not None}


async def check(storage: Storage, clients: list[Client], *, complete: bool) -> None:
    log = await storage.read(0, BIG)
    state = await live(storage, SCOPE)
    for client in clients:
        matching = [change for change in log if client.selector.matches(change.ref)]
        assert client.state == {ref: record for ref, record in state.items() if client.selector.matches(ref)}
        expected = [change for change in matching if change.revision > client.began_after]
        missing = [change for change in expected if change not in client.changes]
        assert [change for change in expected if change not in missing] == client.changes
        if complete:
            # The snapshot shows them. If it is exactly the state at `Synced`, it shows no later change.
            assert not missing or client.opening != state_at(client.began_after, matching)
            for ref in {change.ref for change in missing}:
                shown = max(change.revision for change in missing if change.ref == ref)
                # The opening has the last of them, or a later state from before the snapshot was complete. The change to
                # that later state has come if the client has resumed below it.
                states = [
                    change.record
                    for change in matching
                    if change.ref == ref and shown <= change.revision <= client.opened_by
                ]
                assert client.opening.get(ref) in states
                assert not any(change.ref == ref and change.revision < shown for change in client.changes)


@pytest.fixture(autouse=True)
def _small_pages() -> Iterator[None]:
    with patch.object(selector, "SNAPSHOT_RECORDS", 3), patch.object(store_reads, "CATCH_UP_CHANGES", 4):
        yield


REFUSED = st.sampled_from((0.0, 0.5, 1.0))


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32), refused=REFUSED)
async def test_stream_without_conflation_is_complete_and_in_order(seed: int, refused: float) -> None:
    await play(seed, buffer_changes=BIG, watchers=8, slowness=4, whole=True, refused=refused)


async def test_clients_of_the_property_tests_are_sent_events_past_their_tasks() -> None:
    """Else the tests would say nothing about it."""
    assert await play(1, buffer_changes=BIG, watchers=8, slowness=4, whole=True, refused=0.5) > 20


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32), buffer_changes=st.integers(1, 6), slowness=st.integers(1, 60), refused=REFUSED)
async def test_slow_watchers_end_with_the_state_of_the_store(
    seed: int, buffer_changes: int, slowness: int, refused: float
) -> None:
    await play(seed, buffer_changes=buffer_changes, watchers=8, slowness=slowness, whole=True, refused=refused)


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    buffer_changes=st.sampled_from((1, 4, BIG)),
    slowness=st.integers(1, 30),
    refused=REFUSED,
)
async def test_watchers_that_resume_on_any_replica_end_with_the_state_of_the_store(
    seed: int, buffer_changes: int, slowness: int, refused: float
) -> None:
    await play(seed, buffer_changes=buffer_changes, watchers=8, slowness=slowness, whole=False, refused=refused)
