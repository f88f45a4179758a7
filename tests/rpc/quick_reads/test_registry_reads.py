"""DiscoverInstances and GetServiceUrl, both ways: the same instances, heartbeats and turns."""

import copy
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from configsvc_client.v1 import registry_pb2, registry_pb2_grpc
from hypothesis import given, settings
from hypothesis import strategies as st

from configsvc.app.changelog.writer import AppliedWriter
from configsvc.app.fallback_cache import NO_FALLBACK_CACHE
from configsvc.app.registry.assembly import build_registry
from configsvc.app.registry.service_registry import ServiceRegistry
from configsvc.domain.balancing import STRATEGIES
from configsvc.domain.limits import Limits
from configsvc.domain.records import Action, Author, Put
from configsvc.domain.registrations import Registration
from configsvc.errors import ServiceError, Unavailable
from configsvc.registry.local import LocalRegistry, LocalRegistryClient
from configsvc.registry.port import Node
from configsvc.rpc.quick_reads import QuickRegistry
from configsvc.rpc.servicers.registry import RegistryServicer
from configsvc.rpc.services import REGISTRY
from configsvc.tasks import Supervisor
from tests.app.registry.world import OPTIONS, HandClock, Switch
from tests.app.replica import AT, Replica, open_replica, open_storage, write_all
from tests.rpc.quick_reads.test_equal_answers import assert_equal
from tests.rpc.quick_reads.world import Aborted, BothWays, played

SERVICES, IDS, ZONES, VERSIONS = ("svc", "other", "none"), ("a", "b", "ü", "d"), ("", "z1", "z2"), ("", "1", "2")


class RegistryWorld(BothWays):
    """A replica with a service registry."""

    def __init__(self, replica: Replica, registry: ServiceRegistry) -> None:
        super().__init__(replica)
        self.registry = registry
        limits, watches, clock = Limits(), None, HandClock()
        servicer: Any = RegistryServicer(registry, watches, clock, limits)  # type: ignore[arg-type]
        self.add(registry_pb2_grpc.add_RegistryServiceServicer_to_server, servicer)
        self.quick.add(REGISTRY.descriptor, QuickRegistry(registry.discovery, limits).methods)


@asynccontextmanager
async def open_registry_world(folder: Path) -> AsyncIterator[RegistryWorld]:
    clock = HandClock()
    async with open_storage(folder) as storage, open_replica(storage, clock) as replica, AsyncExitStack() as stack:
        session = await stack.enter_async_context(LocalRegistryClient(LocalRegistry(), "r1"))
        supervisor = Supervisor(clock)
        reader: Any = replica.reader
        built = build_registry(
            OPTIONS,
            writer=AppliedWriter(storage, replica.tail),
            reader=reader,
            heartbeats=storage,
            registry=session,
            probe=Switch(),
            log=replica.tail,
            clock=clock,
            fallback_cache=NO_FALLBACK_CACHE,
            supervisor=supervisor,
        )
        replica.tail.subscribe(built.log_follower)
        await stack.enter_async_context(built.running(supervisor))
        yield RegistryWorld(replica, built)


class Story:
    """Registrations, heartbeats, foreign instances, failures and reads in a random order."""

    def __init__(self, world: RegistryWorld, chance: random.Random) -> None:
        self._world, self._chance = world, chance
        self._registry = world.registry
        self._writes = 0
        self.compared = 0

    async def step(self) -> None:
        does = [self._register, self._deregister, self._beat, self._show_foreign, self._fail, self._turn_store]
        weights = [6, 2, 4, 2, 2, 1, 20]
        with suppress(ServiceError):
            await self._chance.choices([*does, self._read], weights)[0]()

    async def _register(self) -> None:
        registration = Registration(
            self._chance.choice(SERVICES[:2]),
            "http://h:1",
            instance_id=self._chance.choice(IDS),
            metadata={"k": self._chance.choice("xy"), "l": "1"} if self._chance.random() < 0.5 else {},
            weight=self._chance.randint(1, 5),
            zone=self._chance.choice(ZONES),
            version=self._chance.choice(VERSIONS),
        )
        await self._registry.directory.register(registration, self._author())

    async def _deregister(self) -> None:
        service, instance_id = self._chance.choice(SERVICES[:2]), self._chance.choice(IDS)
        await self._registry.directory.deregister(service, instance_id, self._author())

    async def _beat(self) -> None:
        await self._registry.directory.heartbeat(self._chance.choice(SERVICES[:2]), self._chance.choice(IDS))

    async def _show_foreign(self) -> None:
        nodes = [
            Node("svc", name, "", 0, {"service_url": "http://f:1", "status": "HEALTHY"})
            for name in self._chance.sample(["a", "f", "g"], self._chance.randint(0, 3))
        ]
        self._registry.foreign.update("svc", nodes)

    async def _fail(self) -> None:
        """Another replica, which checks an instance, writes its status."""
        records = list(self._registry.registrations.all())
        if records:
            record = self._chance.choice(records)
            body = {**record.body, "status": self._chance.choice(["HEALTHY", "UNHEALTHY"])}
            commit = await write_all(self._world.replica.storage, Put(record.ref, body, Action.STATUS))
            self._world.tail.on_commit(commit)

    async def _turn_store(self) -> None:
        if self._world.tail.stale_since is None:
            self._world.tail.mark_stale(Unavailable("the store is down"))
        else:
            await self._register()

    async def _read(self) -> None:
        method, request = self._chance.choice([self._discover, self._pick])()
        received: bytes = request.SerializeToString()
        if self._chance.random() < 0.05:
            received = received[: self._chance.randint(0, len(received))]
        possible = [("x-configsvc-rest", "1"), ("x-request-id", "mine"), ("x-history", self._world.tail.history)]
        metadata = tuple(pair for pair in possible if self._chance.random() < 0.3)
        tail, discovery, seed = self._world.tail, self._registry.discovery, self._chance.random()
        position = tail.applied, tail.stale_since
        # Both take the same turn.
        turns = copy.deepcopy(discovery._balancers)
        random.seed(seed)
        quick = self._world.ask_quickly(method, received, metadata)
        if quick is None:
            assert discovery._balancers == turns, "a read that is not quick takes no turn"
        discovery._balancers = turns
        random.seed(seed)
        try:
            general = await self._world.ask(method, received, metadata)
        except Aborted:
            general = None
        if position == (tail.applied, tail.stale_since) and quick is not None:
            self.compared += 1
            assert general is not None, "the general path refuses what the quick one answers"
            assert_equal(method, quick, general, metadata)

    def _discover(self) -> tuple[str, Any]:
        return "DiscoverInstances", registry_pb2.DiscoverInstancesRequest(
            service_name=self._chance.choice((*SERVICES, "")) if self._chance.random() < 0.2 else "svc",
            metadata=self._chance.choice([[], [], ["k=x"], ["k=x", "l=1"], ["no equals"]]),
            zone=self._chance.choice(ZONES),
            version=self._chance.choice(VERSIONS),
            min_revision=self._chance.choice([0, 0, 0, self._world.tail.applied, -1]),
            page_size=self._chance.choice([0, 0, 0, 2]),
        )

    def _pick(self) -> tuple[str, Any]:
        return "GetServiceUrl", registry_pb2.GetServiceUrlRequest(
            service_name=self._chance.choice(SERVICES) if self._chance.random() < 0.2 else "svc",
            strategy=self._chance.choice((*STRATEGIES, "", "unknown")),
            hash_key=self._chance.choice(["", "k1", "k2"]),
            zone=self._chance.choice(ZONES),
            min_revision=self._chance.choice([0, 0, 0, self._world.tail.applied]),
        )

    def _author(self) -> Author:
        self._writes += 1
        return Author("tester", "", f"r{self._writes}", AT)


@pytest.mark.timeout(300)
def test_quick_answers_equal_those_of_the_general_path() -> None:
    compared = 0

    @settings(deadline=None)
    @given(st.integers(0, 2**32))
    def check(seed: int) -> None:
        nonlocal compared
        compared += played(open_registry_world, lambda world: Story(world, random.Random(seed)))

    check()
    assert compared > 50, "nothing was compared if no read was quick"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[RegistryWorld]:
    async with open_registry_world(tmp_path) as opened:
        for name in ("a", "b", "c"):
            registration = Registration("svc", f"http://{name}:1", instance_id=name)
            await opened.registry.directory.register(registration, Author("tester", "", "", AT))
        yield opened


DISCOVER = registry_pb2.DiscoverInstancesRequest(service_name="svc").SerializeToString()
PICK = registry_pb2.GetServiceUrlRequest(service_name="svc").SerializeToString()


def discovered(answer: Any) -> list[registry_pb2.Instance]:
    return list(registry_pb2.DiscoverInstancesResponse.FromString(answer.message).instances)


async def test_discovery_is_quick_and_follows_heartbeats_and_changes(world: RegistryWorld) -> None:
    before = discovered(world.ask_quickly("DiscoverInstances", DISCOVER))
    assert [instance.instance_id for instance in before] == ["a", "b", "c"]
    await world.registry.directory.heartbeat("svc", "b")
    after = discovered(world.ask_quickly("DiscoverInstances", DISCOVER))
    assert [old != new for old, new in zip(before, after, strict=True)] == [False, True, False]
    await world.registry.directory.deregister("svc", "b", Author("tester", "", "", AT))
    assert len(discovered(world.ask_quickly("DiscoverInstances", DISCOVER))) == 2


async def test_both_paths_share_the_turns_of_a_service(world: RegistryWorld) -> None:
    picked = []
    for turn in range(6):
        answer = world.ask_quickly("GetServiceUrl", PICK) if turn % 2 else await world.ask("GetServiceUrl", PICK)
        assert answer is not None
        picked.append(registry_pb2.GetServiceUrlResponse.FromString(answer.message).instance_id)
    assert picked == ["a", "b", "c", "a", "b", "c"]


async def test_answers_that_would_be_marked_stale_are_not_quick(world: RegistryWorld) -> None:
    world.tail.mark_stale(Unavailable("the store is down"))
    assert world.ask_quickly("DiscoverInstances", DISCOVER) is None
    assert world.ask_quickly("GetServiceUrl", PICK) is None
