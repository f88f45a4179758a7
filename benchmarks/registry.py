"""Registering and discovering through this service on ZooKeeper, next to kazoo alone, called from the same process.

kazoo alone creates an ephemeral node, or reads the children and their data. This service does the same, and its
registration is also a durable, audited row, which outlives the caller. It answers a discovery from memory, with health
checks. So registering is expected to be slower, and discovering to be faster.
"""

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import grpc
from configsvc_client.v1 import registry_pb2, registry_pb2_grpc
from kazoo.client import KazooClient

from benchmarks import processes
from benchmarks.measure import Effort, Table, calls_per_second, in_async_turns, run
from tests.engines import Postgres, ZooKeeper

IN_FLIGHT = (1, 64)
ROUND_PART = 0.7
WARM_SECONDS = 0.1
INSTANCES = 10
SERVICE, KAZOO_BASE = "payments", "/kazoo-alone"
# A lease longer than the run.
LEASE_SECONDS = 3_600
CONFIGSVC, KAZOO = "configsvc on PostgreSQL and ZooKeeper", "kazoo alone"

Call = Callable[[int], Awaitable[object]]


def tables(effort: Effort, postgres: Postgres, zookeeper: ZooKeeper) -> Sequence[Table]:
    """Register and discover, for one caller and for many."""
    with postgres.database() as url:
        settings = {"DATABASE_URL": url, "ZOOKEEPER_HOSTS": zookeeper.address}
        with processes.service("with-zookeeper", settings) as address, _kazoo(zookeeper) as client:
            return run(_tables(effort, address, client))


async def _tables(effort: Effort, address: str, client: Any) -> Sequence[Table]:
    async with grpc.aio.insecure_channel(address) as channel:
        stub = registry_pb2_grpc.RegistryServiceStub(channel)
        ours, theirs = _Configsvc(stub), _Kazoo(client)
        for number in range(INSTANCES):
            await ours.put(SERVICE, f"instance-{number}")
            await theirs.put(SERVICE, f"instance-{number}")
        ours_found, theirs_found = await ours.discover(0), await theirs.discover(0)
        assert len(ours_found) == len(theirs_found) == INSTANCES, "both find all instances"
        return [
            await _table(f"{what}, {in_flight} in flight", {CONFIGSVC: mine, KAZOO: other}, in_flight, effort)
            for what, mine, other in (
                ("Register an instance", ours.register, theirs.register),
                (f"Discover {INSTANCES} instances", ours.discover, theirs.discover),
            )
            for in_flight in IN_FLIGHT
        ]


async def _table(title: str, sides: dict[str, Call], in_flight: int, effort: Effort) -> Table:
    async def measured(call: Call, seconds: float) -> float:
        return await calls_per_second(call, in_flight, seconds)

    for call in sides.values():
        await measured(call, WARM_SECONDS)
    rounds = {side: lambda call=call: measured(call, effort.seconds * ROUND_PART) for side, call in sides.items()}
    return Table(title, "calls/s", await in_async_turns(rounds, effort.rounds))


class _Configsvc:
    def __init__(self, stub: Any) -> None:
        self._stub = stub
        self._numbers = itertools.count()

    async def put(self, service: str, instance_id: str) -> None:
        await self._stub.RegisterInstance(
            registry_pb2.RegisterInstanceRequest(
                service_name=service,
                instance_id=instance_id,
                service_url=f"http://127.0.0.1:9/{instance_id}",
                lease_ttl_seconds=LEASE_SECONDS,
            )
        )

    async def register(self, _worker: int) -> None:
        await self.put("registered", f"instance-{next(self._numbers)}")

    async def discover(self, _worker: int) -> Sequence[Any]:
        request = registry_pb2.DiscoverInstancesRequest(service_name=SERVICE)
        answer = await self._stub.DiscoverInstances(request)
        return list(answer.instances)


class _Kazoo:
    """kazoo for coroutines: calls are made here, and kazoo's thread hands the answers over."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._numbers = itertools.count()

    async def put(self, service: str, instance_id: str) -> None:
        data = json.dumps({"name": service, "id": instance_id, "address": f"http://127.0.0.1:9/{instance_id}"}).encode()
        path = f"{KAZOO_BASE}/{service}/{instance_id}"
        await _answered(self._client.create_async(path, data, ephemeral=True))

    async def register(self, _worker: int) -> None:
        await self.put("registered", f"instance-{next(self._numbers)}")

    async def discover(self, _worker: int) -> Sequence[Any]:
        path = f"{KAZOO_BASE}/{SERVICE}"
        names = await _answered(self._client.get_children_async(path))
        nodes = await asyncio.gather(*(_answered(self._client.get_async(f"{path}/{name}")) for name in names))
        return [json.loads(data) for data, _ in nodes]


async def _answered(result: Any) -> Any:
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Any] = loop.create_future()
    result.rawlink(lambda done: loop.call_soon_threadsafe(_settle, answer, done))
    return await answer


def _settle(answer: "asyncio.Future[Any]", done: Any) -> None:
    if done.successful():
        answer.set_result(done.get(block=False))
    else:
        answer.set_exception(done.exception)


@contextmanager
def _kazoo(zookeeper: ZooKeeper) -> Iterator[Any]:
    client: Any = KazooClient(zookeeper.address)
    client.start()
    try:
        client.ensure_path(f"{KAZOO_BASE}/{SERVICE}")
        client.ensure_path(f"{KAZOO_BASE}/registered")
        yield client
    finally:
        client.stop()
        client.close()
