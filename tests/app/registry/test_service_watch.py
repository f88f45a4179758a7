"""A watcher of a service holds what discovery returns: registered and foreign instances, after any interruption."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from configsvc.app.registry.foreign_instances import ForeignInstances
from configsvc.app.registry.service_watch import ForeignChanged, ForeignSnapshot, ServiceEvent, ServiceWatches
from configsvc.app.watch.events import Changed, Progress, Snapshot, Synced
from configsvc.app.watch.hub import WatchHub
from configsvc.app.watch.selector import Selector
from configsvc.clock import SystemClock
from configsvc.domain.records import Action, Author, Kind, Put, Record, Ref, Remove, Write
from configsvc.registry.port import Node
from tests.app.fake_clock import settle
from tests.app.replica import Replica, open_replica, open_storage

pytestmark = pytest.mark.timeout(120)

SERVICE = "svc"
AT = datetime(2025, 1, 1, tzinfo=UTC)
OURS, THEIRS = "ours", "theirs"


def ref(name: str) -> Ref:
    return Ref(Kind.INSTANCE, "", SERVICE, name)


@dataclass
class Client:
    """A client that applies events as the proto says."""

    state: dict[str, tuple[str, Any]] = field(default_factory=dict)
    after: int | None = None
    seen: list[ServiceEvent] = field(default_factory=list)

    def take(self, event: ServiceEvent) -> None:
        self.seen.append(event)
        match event:
            case Snapshot(records):
                self.state.update({record.ref.key: (OURS, record.body["value"]) for record in records})
            case ForeignSnapshot(instances):
                self.state = {name: held for name, held in self.state.items() if held[0] == OURS}
                assert not self.state.keys() & {i.instance_id for i in instances}
                self.state.update({i.instance_id: (THEIRS, i.service_url) for i in instances})
            case Synced(revision) | Progress(revision):
                self.after = revision
            case Changed(change, completes):
                if change.record is None:
                    self.state.pop(change.ref.key, None)
                else:
                    self.state[change.ref.key] = (OURS, change.record.body["value"])
                self.after = change.revision if completes else self.after
            case ForeignChanged(revision, instance, previous, is_gone):
                assert revision == self.after, "resuming after it loses nothing"
                held = self.state.get(instance.instance_id)
                assert held == (None if previous is None else (THEIRS, previous.service_url)), "nothing is sent twice"
                if is_gone:
                    del self.state[instance.instance_id]
                else:
                    self.state[instance.instance_id] = (THEIRS, instance.service_url)


class World:
    """A replica, its registrations, and foreign instances."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.registered: dict[str, Record] = {}
        self.shown: dict[str, str] = {}
        self.is_complete = True
        replica.tail.subscribe(self)
        self.foreign = ForeignInstances(SystemClock())
        hub = replica.following(WatchHub(
            tail=replica.tail, reader=replica.storage, log=replica.storage, clock=SystemClock(), buffer_changes=2,
            progress_seconds=1e6,
        ))  # fmt: skip
        self.watches = ServiceWatches(
            hub,
            self.foreign,
            replica.tail,
            registered_ids=lambda _: self.registered.keys(),
            is_complete=lambda: self.is_complete,
        )

    def apply(self, changes: Any) -> None:
        for change in changes:
            if change.record is None:
                self.registered.pop(change.ref.key, None)
            else:
                self.registered[change.ref.key] = change.record

    def reset(self, revision: int) -> None:
        raise AssertionError("nothing is compacted")

    async def write(self, name: str, value: object) -> None:
        mutation = Remove(ref(name)) if value is None else Put(ref(name), {"value": value}, Action.UPDATE)
        author = Author("tester", "", "", AT)
        write = Write(
            author, (ref(name),), lambda view: (mutation,) if value is not None or view.get(ref(name)) else ()
        )
        self.replica.tail.on_commit(await self.replica.storage.write(write))

    def show(self, name: str, url: str | None) -> None:
        if url is None:
            self.shown.pop(name, None)
        else:
            self.shown[name] = url
        self.foreign.update(SERVICE, [Node(SERVICE, n, "", 0, {"service_url": u}) for n, u in self.shown.items()])

    @property
    def current(self) -> dict[str, tuple[str, Any]]:
        """The state that discovery returns."""
        ours = {name: (OURS, record.body["value"]) for name, record in self.registered.items()}
        return {**{name: (THEIRS, url) for name, url in self.shown.items()}, **ours}

    @asynccontextmanager
    async def watched(self, client: Client) -> AsyncIterator["Watching"]:
        watching = Watching(self, client)
        try:
            yield watching
        finally:
            await watching.end()


class Watching:
    """One stream of a client. The test can hold it up."""

    def __init__(self, world: World, client: Client) -> None:
        self._world, self._client = world, client
        self.flows = asyncio.Event()
        self.flows.set()
        self._received = asyncio.Event()
        # Events that were sent past this task; all the same, the task has none in hand then.
        self.sent_past = 0
        self._failures: list[AssertionError] = []
        self._task = asyncio.create_task(self._run())

    def _send_now(self, event: ServiceEvent) -> bool:
        if not self.flows.is_set():
            return False
        try:
            self._client.take(event)
        except AssertionError as error:
            self._failures.append(error)
        self.sent_past += 1
        self._received.set()
        return True

    async def _run(self) -> None:
        selector = Selector(Kind.INSTANCE, "", SERVICE, None, "")
        async for event in self._world.watches.watch(selector, self._client.after, send_now=self._send_now):
            await self.flows.wait()
            self._client.take(event)
            self._received.set()

    async def until_current(self) -> None:
        """Returns when the client holds the state of discovery. Raises the stream's error."""
        await self.until(lambda: self._client.after is not None and self._client.state == self._world.current)

    async def until(self, condition: Callable[[], bool]) -> None:
        self.flows.set()
        async with asyncio.timeout(20):
            while not condition():
                self._received.clear()
                received = asyncio.create_task(self._received.wait())
                await asyncio.wait((received, self._task), return_when=asyncio.FIRST_COMPLETED)
                received.cancel()
                assert not self._failures
                if self._task.done():
                    self._task.result()

    async def end(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


@asynccontextmanager
async def world_in(folder: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        storage = await stack.enter_async_context(open_storage(folder))
        replica = await stack.enter_async_context(open_replica(storage, SystemClock()))
        yield World(replica)


async def test_watch_sends_put_change_and_delete_of_foreign_instances(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        world.show("jvm", "http://a:1")
        await world.write("one", 1)
        client = Client()
        async with world.watched(client) as stream:
            await stream.until_current()
            assert isinstance(client.seen[-1], Synced), "the foreign instances come before Synced"
            world.show("jvm", "http://b:1")
            await stream.until_current()
            world.show("jvm", None)
            await stream.until_current()
            world.show("jvm", None)
            await world.write("one", 2)
            await stream.until_current()
        kinds = [type(event).__name__ for event in client.seen]
        assert kinds == ["Snapshot", "ForeignSnapshot", "Synced", "ForeignChanged", "ForeignChanged", "Changed"]


async def test_resumed_watch_gets_the_current_foreign_instances(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        world.show("goes", "http://a:1")
        client = Client()
        async with world.watched(client) as stream:
            await stream.until_current()
        world.show("goes", None)
        world.show("comes", "http://b:1")
        async with world.watched(client) as stream:
            await stream.until_current()
        assert client.state == {"comes": (THEIRS, "http://b:1")}


async def test_changes_are_sent_past_the_task_unless_a_foreign_instance_may_follow(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        await world.write("one", 1)
        client = Client()
        async with world.watched(client) as stream:
            await stream.until_current()
            await settle()
            await world.write("one", 2)
            await stream.until_current()
            assert stream.sent_past == 1
            world.show("jvm", "http://a:1")
            await stream.until_current()
            await settle()
            await world.write("jvm", 1)
            await stream.until_current()
            await settle()
            await world.write("jvm", None)
            await stream.until_current()
            assert stream.sent_past == 1
        kinds = [type(event).__name__ for event in client.seen]
        assert kinds == ["Snapshot", "Synced", "Changed", "ForeignChanged", "Changed", "Changed", "ForeignChanged"]


async def test_registration_replaces_a_foreign_instance_and_gives_way_without_a_gap(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        world.show("one", "http://a:1")
        client = Client()
        async with world.watched(client) as stream:
            await stream.until_current()
            await world.write("one", 1)
            await stream.until_current()
            assert not any(isinstance(event, ForeignChanged) and event.is_gone for event in client.seen)
            world.show("one", "http://hidden:1")
            await world.write("one", None)
            await stream.until_current()
        assert client.state == {"one": (THEIRS, "http://hidden:1")}


async def test_watcher_keeps_foreign_instances_until_the_registry_is_read(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        world.show("jvm", "http://a:1")
        client = Client()
        async with world.watched(client) as stream:
            await stream.until_current()
        held = dict(client.state)
        world.show("jvm", None)
        world.is_complete = False
        async with world.watched(client) as stream:
            await world.write("one", 1)
            await stream.until(lambda: "one" in client.state)
            assert {**held, "one": (OURS, 1)} == client.state
            world.is_complete = True
            await world.write("one", 2)
            await stream.until_current()
        assert client.state == {"one": (OURS, 2)}


STEPS = st.lists(
    st.tuples(st.sampled_from(["write", "show", "hold", "flow", "cut", "yield"]), st.sampled_from("ab"),
              st.none() | st.integers(0, 1)),
    min_size=5,
    max_size=25,
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example([("write", "a", 0), ("show", "a", 0), ("write", "a", None), ("cut", "a", None)])
@given(STEPS)
async def test_watcher_ends_with_the_state_of_discovery_in_random_runs(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str, int | None]]
) -> None:
    async with world_in(tmp_path_factory.mktemp("world")) as world:
        client = Client()
        async with AsyncExitStack() as stack:
            stream = await stack.enter_async_context(world.watched(client))
            for step, name, value in steps:
                match step:
                    case "write":
                        await world.write(name, value)
                    case "show":
                        world.show(name, None if value is None else f"http://{name}:{value + 1}")
                    case "hold":
                        stream.flows.clear()
                    case "flow":
                        stream.flows.set()
                    case "yield":
                        await asyncio.sleep(0)
                    case _:
                        await stack.aclose()
                        stream = await stack.enter_async_context(world.watched(client))
            await stream.until_current()
