"""One run: three replicas on real backends, clients that read, write and watch, and faults; then the check.

Everything that is chosen at random comes from one seed: which faults, in which order, for how long, and each client's
steps. (Which of them coincide is the machine's business, so a run is repeated by its seed as far as one can.)
"""

import asyncio
import json
import random
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc
from configsvc_client.v1 import (
    change_pb2,
    change_pb2_grpc,
    config_pb2,
    config_pb2_grpc,
    health_pb2,
    registry_pb2,
    registry_pb2_grpc,
)
from confluent_kafka import Consumer, TopicPartition
from google.protobuf.struct_pb2 import Value

from tests.chaos.checker import violations
from tests.chaos.faults import Cluster, Fault, apart, faults_of
from tests.chaos.history import History, Logged, Read, Seen, Watched, Wrote
from tests.replicas.fleet import ENVIRONMENT, Replica, eventually

KEYS = [f"key-{number}" for number in range(8)]
WRITERS, READERS = 6, 6
SERVICE, LIVING = "alive", ("one", "two", "three")
LEASE_SECONDS = 30
CALL_SECONDS = 8.0
CHANNEL = (("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 500))
HEALED_WITHIN_SECONDS = 60.0
# Nothing was done, whatever else is true.
REFUSED = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.ABORTED)


@dataclass
class Run:
    """The clients of one run."""

    replicas: list[Replica]
    seed: int
    history: History = field(default_factory=History)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    numbers: int = 0

    def random(self, name: str) -> random.Random:
        """A client's own choices."""
        return random.Random(f"{self.seed} {name}")

    async def write(self, name: str) -> None:
        """Writes values that nobody else writes."""
        choices = self.random(name)
        async with AsyncStubs(self) as stubs:
            while not self.over.is_set():
                key, stub = choices.choice(KEYS), choices.choice(stubs.configs)
                self.numbers += 1
                value, began = self.numbers, time.monotonic()
                request = config_pb2.UpdateConfigRequest(
                    key=key, environment=ENVIRONMENT, value=Value(number_value=value), allow_missing=True
                )
                revision, refused = None, False
                try:
                    revision = (await stub.UpdateConfig(request, timeout=CALL_SECONDS)).revision
                except grpc.aio.AioRpcError as error:
                    self.note(error)
                    refused = error.code() in REFUSED
                self.history.writes.append(Wrote(key, value, began, time.monotonic(), revision, refused))
                await asyncio.sleep(choices.uniform(0, 0.02))

    async def read(self, name: str) -> None:
        """Reads, sometimes asking for what it has seen already or what was just written."""
        choices = self.random(name)
        highest = 0
        async with AsyncStubs(self) as stubs:
            while not self.over.is_set():
                key, stub = choices.choice(KEYS), choices.choice(stubs.configs)
                least = choices.choice((0, 0, highest))
                request = config_pb2.GetConfigRequest(key=key, environment=ENVIRONMENT, min_revision=least)
                try:
                    call = stub.GetConfig(request, timeout=CALL_SECONDS)
                    answer = await call
                    stale = dict(await call.trailing_metadata()).get("x-stale") == "true"
                    highest = max(highest, answer.revision)
                    value, since = int(answer.config.value.number_value), answer.config.revision
                    self.history.reads.append(Read(key, least, answer.revision, since, value, stale))
                except grpc.aio.AioRpcError as error:
                    if error.code() != grpc.StatusCode.NOT_FOUND:
                        self.note(error)
                await asyncio.sleep(choices.uniform(0, 0.02))

    async def watch(self, watched: Watched, replica: Replica) -> None:
        """Watches one replica; after a break it goes on where it had got to."""
        reached = watched.after
        # Of a revision that is not complete yet: it comes again, whole, where the watch breaks inside it.
        batch: list[Seen] = []
        async with grpc.aio.insecure_channel(replica.address, options=CHANNEL) as channel:
            stub = config_pb2_grpc.ConfigServiceStub(channel)
            while True:
                request = config_pb2.WatchConfigsRequest(environment=ENVIRONMENT, after_revision=reached)
                batch.clear()
                try:
                    async for message in stub.WatchConfigs(request):
                        if message.HasField("change"):
                            change = message.change
                            deleted = change.type == "DELETE"
                            value = None if deleted else int(change.config.value.number_value)
                            key = change.previous.key if deleted else change.config.key
                            batch.append(Seen(change.revision, key, value))
                            if change.revision_complete:
                                watched.seen += batch
                                batch.clear()
                                reached = change.revision
                        elif message.HasField("progress"):
                            reached = max(reached, message.progress.revision)
                        if self.over.is_set() and reached >= self.history.last_revision > 0:
                            return
                except grpc.aio.AioRpcError as error:
                    self.note(error)
                watched.resumed += 1
                await asyncio.sleep(0.1)

    async def live(self, instance_id: str) -> None:
        """An instance that gives signs of life, each through any replica."""
        choices = self.random(instance_id)
        async with AsyncStubs(self) as stubs:
            while not self.over.is_set():
                request = registry_pb2.HeartbeatRequest(service_name=SERVICE, instance_id=instance_id)
                try:
                    await choices.choice(stubs.registries).Heartbeat(request, timeout=CALL_SECONDS)
                except grpc.aio.AioRpcError as error:
                    self.note(error)
                await asyncio.sleep(0.5)

    async def discover(self) -> None:
        """Asks all replicas for the living, all the time."""
        choices = self.random("discover")
        request = registry_pb2.DiscoverInstancesRequest(service_name=SERVICE)
        async with AsyncStubs(self) as stubs:
            while not self.over.is_set():
                try:
                    answer = await choices.choice(stubs.registries).DiscoverInstances(request, timeout=CALL_SECONDS)
                    self.history.discovered.append(frozenset(i.instance_id for i in answer.instances))
                except grpc.aio.AioRpcError as error:
                    self.note(error)
                await asyncio.sleep(0.05)

    async def fault(self, faults: list[Fault], seconds: float) -> None:
        """One fault after another; sometimes a second one before the first is mended."""
        choices = self.random("faults")
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            first, second = choices.sample(faults, 2)
            broken = [first, second] if choices.random() < 0.3 and apart(first, second) else [first]
            for fault in broken:
                self.history.faults.append(fault.name)
                await asyncio.to_thread(fault.harm)
            await asyncio.sleep(choices.uniform(0.2, min(fault.longest_seconds for fault in broken)))
            for fault in broken:
                await asyncio.to_thread(fault.mend)
            await asyncio.sleep(choices.uniform(0.5, 2.0))

    def note(self, error: grpc.aio.AioRpcError) -> None:
        name = error.code().name
        self.history.refusals[name] = self.history.refusals.get(name, 0) + 1


class AsyncStubs:
    """Stubs to every replica."""

    def __init__(self, run: Run) -> None:
        self._run = run

    async def __aenter__(self) -> "AsyncStubs":
        self._channels = [grpc.aio.insecure_channel(r.address, options=CHANNEL) for r in self._run.replicas]
        self.configs: list[Any] = [config_pb2_grpc.ConfigServiceStub(channel) for channel in self._channels]
        self.registries: list[Any] = [registry_pb2_grpc.RegistryServiceStub(channel) for channel in self._channels]
        self.changes: list[Any] = [change_pb2_grpc.ChangeServiceStub(channel) for channel in self._channels]
        return self

    async def __aexit__(self, *_: object) -> None:
        for channel in self._channels:
            await channel.close()


async def run_chaos(cluster: Cluster, *, seed: int, seconds: float) -> tuple[list[History], list[str]]:
    """The histories of one run, and what is wrong with them.

    Between two halves the database is restored from a backup that was made as the first began, under living replicas,
    caches and watchers. What the first half wrote is lost then, and none of it may be seen in the second.
    """
    before = await _half(cluster, seed, seconds / 2)
    lost = await _restored(cluster, before.history, before.backup)
    after = await _half(cluster, seed + 1, seconds / 2)
    await asyncio.to_thread(cluster.postgres.drop_database, before.backup)
    await asyncio.to_thread(cluster.postgres.drop_database, after.backup)
    found = [
        *violations(before.history),
        *(f"at the restore: {line}" for line in lost),
        *(f"after the restore: {line}" for line in violations(after.history)),
    ]
    return [before.history, after.history], found


@dataclass(frozen=True)
class _Half:
    """What clients did in one half, and the backup that was made as it began."""

    history: History
    backup: str


async def _half(cluster: Cluster, seed: int, seconds: float) -> _Half:
    run = Run(cluster.replicas, seed)
    history = run.history
    async with AsyncStubs(run) as stubs:
        for instance_id in LIVING:
            await stubs.registries[0].RegisterInstance(
                registry_pb2.RegisterInstanceRequest(
                    service_name=SERVICE, instance_id=instance_id, service_url=f"http://127.0.0.1:9/{instance_id}",
                    lease_ttl_seconds=LEASE_SECONDS,
                )
            )  # fmt: skip
        backup = await asyncio.to_thread(cluster.postgres.back_up, cluster.settings["DATABASE_URL"])
        await _healed(cluster.replicas)
        for key in KEYS:
            run.numbers += 1
            began = time.monotonic()
            request = config_pb2.UpdateConfigRequest(
                key=key, environment=ENVIRONMENT, value=Value(number_value=run.numbers), allow_missing=True
            )
            revision = (await stubs.configs[0].UpdateConfig(request)).revision
            if key == KEYS[0]:
                history.first_revision = revision
            history.writes.append(Wrote(key, run.numbers, began, time.monotonic(), revision))
        for stub in stubs.configs:
            # Each has heard of all of them before anyone counts.
            await stub.GetConfig(
                config_pb2.GetConfigRequest(key=KEYS[0], environment=ENVIRONMENT, min_revision=revision)
            )
        history.living = frozenset(LIVING)
        history.watchers = [Watched(f"{number} at {r.name}", revision) for number, r in enumerate(run.replicas * 2)]
        watching = [
            asyncio.create_task(run.watch(watched, run.replicas[number % len(run.replicas)]))
            for number, watched in enumerate(history.watchers)
        ]
        clients: list[asyncio.Task[None]] = [
            *(asyncio.create_task(run.write(f"writer {n}")) for n in range(WRITERS)),
            *(asyncio.create_task(run.read(f"reader {n}")) for n in range(READERS)),
            *(asyncio.create_task(run.live(instance_id)) for instance_id in LIVING),
            asyncio.create_task(run.discover()),
        ]
        await run.fault(faults_of(cluster), seconds)
        await _healed(cluster.replicas)
        # Once more round, now that all is well.
        await asyncio.sleep(1)
        run.over.set()
        await asyncio.gather(*clients)
        last = config_pb2.UpdateConfigRequest(
            key="last", environment=ENVIRONMENT, value=Value(number_value=run.numbers + 1), allow_missing=True
        )
        began = time.monotonic()
        revision = (await stubs.configs[0].UpdateConfig(last, timeout=CALL_SECONDS)).revision
        history.writes.append(Wrote("last", run.numbers + 1, began, time.monotonic(), revision))
        history.last_revision = revision
        await _log(stubs.changes[0], history)
        async with asyncio.timeout(HEALED_WITHIN_SECONDS):
            await asyncio.gather(*watching)
    await asyncio.to_thread(_published, cluster.settings, history)
    return _Half(history, backup)


async def _restored(cluster: Cluster, history: History, backup: str) -> list[str]:
    """Puts the backup in the database's place; returns what a watcher was not told of it."""
    known = {replica.name: await asyncio.to_thread(_history_of, replica) for replica in cluster.replicas}
    watchers = [asyncio.create_task(_watch_on(replica, history.last_revision)) for replica in cluster.replicas]
    await asyncio.to_thread(cluster.postgres.restore, cluster.settings["DATABASE_URL"], backup)
    async with asyncio.timeout(HEALED_WITHIN_SECONDS):
        for replica in cluster.replicas:
            await asyncio.to_thread(_notice, replica, known[replica.name])
        ends = await asyncio.gather(*watchers)
    await _healed(cluster.replicas)
    return [
        f"the watcher at {replica.name} was not told: its stream ended with {end}"
        for replica, end in zip(cluster.replicas, ends, strict=True)
        if end != grpc.StatusCode.OUT_OF_RANGE.name
    ]


def _notice(replica: Replica, known: str) -> None:
    """Returns when a replica says another history than the one that is known."""
    eventually(lambda: _history_of(replica) not in ("", known), f"{replica.name} notices the restore")


def _history_of(replica: Replica) -> str:
    """The history id that a replica says; empty if it does not answer."""
    try:
        return replica.health.GetHealth(health_pb2.GetHealthRequest(), timeout=5).health.history
    except grpc.RpcError:
        return ""


async def _watch_on(replica: Replica, after_revision: int) -> str:
    """Watches until the stream ends, as a client that resumes once its replica is there again; how it ended."""
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


async def _healed(replicas: list[Replica]) -> None:
    end = time.monotonic() + HEALED_WITHIN_SECONDS
    for replica in replicas:
        while True:
            try:
                troubles = await asyncio.to_thread(replica.troubles)
                if not troubles:
                    break
            except grpc.RpcError as error:
                troubles = [str(error)]
            if time.monotonic() > end:
                raise AssertionError(f"{replica.name} is not well after {HEALED_WITHIN_SECONDS:g} s: {troubles}")
            await asyncio.sleep(0.1)


async def _log(stub: change_pb2_grpc.ChangeServiceStub, history: History) -> None:
    """The log from the half's first write on, as the audit trail tells it."""
    token = ""
    while True:
        request = change_pb2.ListChangesRequest(
            page_size=1_000, page_token=token, after_revision=history.first_revision - 1
        )
        page = await stub.ListChanges(request, timeout=30)  # type: ignore[misc]
        for change in page.changes:
            history.revisions.add(change.revision)
            if (change.kind, change.environment) == ("config", ENVIRONMENT):
                value = int(change.after.fields["value"].number_value) if change.HasField("after") else None
                history.log.append(Logged(change.revision, change.key, value))
        token = page.next_page_token
        if not token:
            break
    history.log.reverse()


def _published(settings: Mapping[str, str], history: History) -> None:
    """Reads the topic until every revision was there, or nothing comes any more."""
    topic = settings.get("KAFKA_TOPIC_CONFIG_UPDATES", "config-updates")
    consumer = Consumer(
        {
            "bootstrap.servers": settings["KAFKA_BOOTSTRAP_SERVERS"],
            "group.id": secrets.token_hex(4),
            "enable.auto.commit": False,
        }
    )
    try:
        partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
        consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
        missing = set(history.revisions)
        while missing and (message := consumer.poll(10)) is not None:
            if message.error() is None:
                event = json.loads(message.value() or b"")
                key = f"{event['kind']}/{event['environment']}/{event['service']}/{event['key']}"
                history.published.setdefault(key, []).append(event["revision"])
                missing.discard(event["revision"])
    finally:
        consumer.close()


def report(histories: list[History], found: list[str], seed: int, seconds: float) -> str:
    """The figures of a run, in a few lines."""
    lines = [f"chaos: seed {seed}, {seconds:g} s of faults, in the middle a backup of the beginning restored"]
    for history in histories:
        acknowledged = sum(write.revision is not None for write in history.writes)
        lines += [
            f"  operations: {len(history.writes)} writes ({acknowledged} acknowledged), {len(history.reads)} reads"
            f" ({sum(read.is_stale for read in history.reads)} stale), {len(history.discovered)} discover answers,"
            f" {sum(len(w.seen) for w in history.watchers)} changes at {len(history.watchers)} watchers"
            f" ({sum(w.resumed for w in history.watchers)} resumed)",
            f"  faults: {len(history.faults)}: {', '.join(history.faults)}",
            f"  calls that failed: {history.refusals or 'none'}",
        ]
    return "\n".join([*lines, f"  violations: {len(found)}", *(f"    {line}" for line in found[:20])])
