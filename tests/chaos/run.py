"""One run: three replicas on real backends, clients that read, write and watch, and faults; then the check."""

import asyncio
import time
from dataclasses import dataclass

import grpc
from configsvc_client.v1 import config_pb2, config_pb2_grpc, health_pb2, registry_pb2
from google.protobuf.struct_pb2 import Value

from tests.chaos.checker import violations
from tests.chaos.clients import CALL_SECONDS, CHANNEL, KEYS, SERVICE, AsyncStubs, Clients
from tests.chaos.faults import Cluster, faults_of
from tests.chaos.history import History, WatcherRecord, WriteAttempt
from tests.chaos.record import read_log, read_topic
from tests.replicas.fleet import ENVIRONMENT, Replica, eventually

WRITERS, READERS = 6, 6
LIVING = ("one", "two", "three")
LEASE_SECONDS = 30
RECOVERED_WITHIN_SECONDS = 60.0


async def run_chaos(cluster: Cluster, *, seed: int, seconds: float) -> tuple[list[History], list[str]]:
    """Runs it; returns the histories and their violations.

    Between the two halves the database is restored, under running replicas, caches and watchers, from a backup that was
    made at the start. The writes of the first half are then lost, and none of them may appear in the second half.
    """
    before = await _half(cluster, seed, seconds / 2)
    lost = await _restore(cluster, before.history, before.backup)
    after = await _half(cluster, seed + 1, seconds / 2)
    await asyncio.to_thread(cluster.postgres.drop_database, before.backup)
    await asyncio.to_thread(cluster.postgres.drop_database, after.backup)
    lines = [
        *violations(before.history),
        *(f"at the restore: {line}" for line in lost),
        *(f"after the restore: {line}" for line in violations(after.history)),
    ]
    return [before.history, after.history], lines


@dataclass(frozen=True)
class _HalfRun:
    """The history of one half, and the backup from its start."""

    history: History
    backup: str


async def _half(cluster: Cluster, seed: int, seconds: float) -> _HalfRun:
    clients = Clients(cluster.replicas, seed)
    history = clients.history
    async with AsyncStubs(cluster.replicas) as stubs:
        for instance_id in LIVING:
            await stubs.registries[0].RegisterInstance(
                registry_pb2.RegisterInstanceRequest(
                    service_name=SERVICE, instance_id=instance_id, service_url=f"http://127.0.0.1:9/{instance_id}",
                    lease_ttl_seconds=LEASE_SECONDS,
                )
            )  # fmt: skip
        backup = await asyncio.to_thread(cluster.postgres.back_up, cluster.settings["DATABASE_URL"])
        await _until_recovered(cluster.replicas)
        for key in KEYS:
            clients.numbers += 1
            began = time.monotonic()
            request = config_pb2.UpdateConfigRequest(
                key=key, environment=ENVIRONMENT, value=Value(number_value=clients.numbers), allow_missing=True
            )
            revision = (await stubs.configs[0].UpdateConfig(request)).revision
            if key == KEYS[0]:
                history.first_revision = revision
            history.writes.append(WriteAttempt(key, clients.numbers, began, time.monotonic(), revision))
        for stub in stubs.configs:
            # Each replica has applied these writes before the clients start.
            await stub.GetConfig(
                config_pb2.GetConfigRequest(key=KEYS[0], environment=ENVIRONMENT, min_revision=revision)
            )
        history.living = frozenset(LIVING)
        history.watchers = [
            WatcherRecord(f"{number} at {r.name}", revision) for number, r in enumerate(cluster.replicas * 2)
        ]
        watching = [
            asyncio.create_task(clients.watch(record, cluster.replicas[number % len(cluster.replicas)]))
            for number, record in enumerate(history.watchers)
        ]
        tasks: list[asyncio.Task[None]] = [
            *(asyncio.create_task(clients.write(f"writer {n}")) for n in range(WRITERS)),
            *(asyncio.create_task(clients.read(f"reader {n}")) for n in range(READERS)),
            *(asyncio.create_task(clients.live(instance_id)) for instance_id in LIVING),
            asyncio.create_task(clients.discover()),
        ]
        await clients.inject_faults(faults_of(cluster), seconds)
        await _until_recovered(cluster.replicas)
        # One more round of all clients without faults.
        await asyncio.sleep(1)
        clients.over.set()
        await asyncio.gather(*tasks)
        last = config_pb2.UpdateConfigRequest(
            key="last", environment=ENVIRONMENT, value=Value(number_value=clients.numbers + 1), allow_missing=True
        )
        began = time.monotonic()
        revision = (await stubs.configs[0].UpdateConfig(last, timeout=CALL_SECONDS)).revision
        history.writes.append(WriteAttempt("last", clients.numbers + 1, began, time.monotonic(), revision))
        history.last_revision = revision
        await read_log(stubs.changes[0], history)
        async with asyncio.timeout(RECOVERED_WITHIN_SECONDS):
            await asyncio.gather(*watching)
    await asyncio.to_thread(read_topic, cluster.settings, history)
    return _HalfRun(history, backup)


async def _restore(cluster: Cluster, history: History, backup: str) -> list[str]:
    """Replaces the database by the backup; returns a violation for each watcher that was not told."""
    known = {replica.name: await asyncio.to_thread(_history_of, replica) for replica in cluster.replicas}
    watchers = [asyncio.create_task(_watch_on(replica, history.last_revision)) for replica in cluster.replicas]
    await asyncio.to_thread(cluster.postgres.restore, cluster.settings["DATABASE_URL"], backup)
    async with asyncio.timeout(RECOVERED_WITHIN_SECONDS):
        for replica in cluster.replicas:
            await asyncio.to_thread(_until_noticed, replica, known[replica.name])
        ends = await asyncio.gather(*watchers)
    await _until_recovered(cluster.replicas)
    return [
        f"the watcher at {replica.name} was not told: its stream ended with {end}"
        for replica, end in zip(cluster.replicas, ends, strict=True)
        if end != grpc.StatusCode.OUT_OF_RANGE.name
    ]


def _until_noticed(replica: Replica, known: str) -> None:
    """Returns when a replica reports a history other than the known one."""
    eventually(lambda: _history_of(replica) not in ("", known), f"{replica.name} notices the restore")


def _history_of(replica: Replica) -> str:
    """The history id that a replica reports; empty if it does not answer."""
    try:
        return replica.health.GetHealth(health_pb2.GetHealthRequest(), timeout=5).health.history
    except grpc.RpcError:
        return ""


async def _watch_on(replica: Replica, after_revision: int) -> str:
    """Watches like a client that resumes when its replica is up again; returns the status that ended the watch."""
    async with grpc.aio.insecure_channel(replica.address, options=CHANNEL) as channel:
        stub = config_pb2_grpc.ConfigServiceStub(channel)
        request = config_pb2.WatchConfigsRequest(environment=ENVIRONMENT, after_revision=after_revision)
        while True:
            try:
                async for _ in stub.WatchConfigs(request):
                    pass
            except grpc.aio.AioRpcError as error:
                if error.code() != grpc.StatusCode.UNAVAILABLE:
                    return error.code().name
            await asyncio.sleep(0.1)


async def _until_recovered(replicas: list[Replica]) -> None:
    end = time.monotonic() + RECOVERED_WITHIN_SECONDS
    for replica in replicas:
        while True:
            try:
                failures = await asyncio.to_thread(replica.failures)
                if not failures:
                    break
            except grpc.RpcError as error:
                failures = [str(error)]
            if time.monotonic() > end:
                raise AssertionError(
                    f"{replica.name} has not recovered after {RECOVERED_WITHIN_SECONDS:g} s: {failures}"
                )
            await asyncio.sleep(0.1)
