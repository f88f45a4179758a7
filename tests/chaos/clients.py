"""The clients of one run: writers, readers, watchers and instances at all replicas, and the faults between them.

All random choices come from one seed: the faults, their order and duration, and each client's steps. The timing depends
on the machine, so a seed repeats a run only approximately.
"""

import asyncio
import random
import time
from dataclasses import dataclass, field
from typing import Any

import grpc
from configsvc_client.v1 import change_pb2_grpc, config_pb2, config_pb2_grpc, registry_pb2, registry_pb2_grpc
from google.protobuf.struct_pb2 import Value

from tests.chaos.faults import Fault, have_different_targets
from tests.chaos.history import History, Read, ReceivedChange, WatcherRecord, WriteAttempt
from tests.replicas.fleet import ENVIRONMENT, Replica

KEYS = [f"key-{number}" for number in range(8)]
SERVICE = "alive"
CALL_SECONDS = 8.0
CHANNEL = (("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 500))
# The service did not apply the write.
REFUSED = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.ABORTED)


@dataclass
class Clients:
    """The clients of one run."""

    replicas: list[Replica]
    seed: int
    history: History = field(default_factory=History)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    numbers: int = 0

    def random(self, name: str) -> random.Random:
        """The random source of one client."""
        return random.Random(f"{self.seed} {name}")

    async def write(self, name: str) -> None:
        """Writes unique values."""
        choices = self.random(name)
        async with AsyncStubs(self.replicas) as stubs:
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
                self.history.writes.append(WriteAttempt(key, value, began, time.monotonic(), revision, refused))
                await asyncio.sleep(choices.uniform(0, 0.02))

    async def read(self, name: str) -> None:
        """Reads, sometimes with a `min_revision` that it has seen or that was just written."""
        choices = self.random(name)
        highest = 0
        async with AsyncStubs(self.replicas) as stubs:
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

    async def watch(self, record: WatcherRecord, replica: Replica) -> None:
        """Watches one replica; resumes after a disconnect."""
        reached = record.after
        # The revision is not complete yet: if the watch breaks here, the whole revision is sent again.
        batch: list[ReceivedChange] = []
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
                            batch.append(ReceivedChange(change.revision, key, value))
                            if change.revision_complete:
                                record.received += batch
                                batch.clear()
                                reached = change.revision
                        elif message.HasField("progress"):
                            reached = max(reached, message.progress.revision)
                        if self.over.is_set() and reached >= self.history.last_revision > 0:
                            return
                except grpc.aio.AioRpcError as error:
                    self.note(error)
                record.resumed += 1
                await asyncio.sleep(0.1)

    async def live(self, instance_id: str) -> None:
        """Sends the heartbeats of an instance, each through a random replica."""
        choices = self.random(instance_id)
        async with AsyncStubs(self.replicas) as stubs:
            while not self.over.is_set():
                request = registry_pb2.HeartbeatRequest(service_name=SERVICE, instance_id=instance_id)
                try:
                    await choices.choice(stubs.registries).Heartbeat(request, timeout=CALL_SECONDS)
                except grpc.aio.AioRpcError as error:
                    self.note(error)
                await asyncio.sleep(0.5)

    async def discover(self) -> None:
        """Discovers the living instances at all replicas, all the time."""
        choices = self.random("discover")
        request = registry_pb2.DiscoverInstancesRequest(service_name=SERVICE)
        async with AsyncStubs(self.replicas) as stubs:
            while not self.over.is_set():
                try:
                    answer = await choices.choice(stubs.registries).DiscoverInstances(request, timeout=CALL_SECONDS)
                    self.history.discovered.append(frozenset(i.instance_id for i in answer.instances))
                except grpc.aio.AioRpcError as error:
                    self.note(error)
                await asyncio.sleep(0.05)

    async def inject_faults(self, faults: list[Fault], seconds: float) -> None:
        """Injects one fault after another; sometimes a second one before the first is repaired."""
        choices = self.random("faults")
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            first, second = choices.sample(faults, 2)
            broken = [first, second] if choices.random() < 0.3 and have_different_targets(first, second) else [first]
            for fault in broken:
                self.history.faults.append(fault.name)
                await asyncio.to_thread(fault.inject)
            await asyncio.sleep(choices.uniform(0.2, min(fault.longest_seconds for fault in broken)))
            for fault in broken:
                await asyncio.to_thread(fault.repair)
            await asyncio.sleep(choices.uniform(0.5, 2.0))

    def note(self, error: grpc.aio.AioRpcError) -> None:
        """Counts a failed call."""
        name = error.code().name
        self.history.refusals[name] = self.history.refusals.get(name, 0) + 1


class AsyncStubs:
    """Stubs to every replica."""

    def __init__(self, replicas: list[Replica]) -> None:
        self._replicas = replicas

    async def __aenter__(self) -> "AsyncStubs":
        self._channels = [grpc.aio.insecure_channel(r.address, options=CHANNEL) for r in self._replicas]
        self.configs: list[Any] = [config_pb2_grpc.ConfigServiceStub(channel) for channel in self._channels]
        self.registries: list[Any] = [registry_pb2_grpc.RegistryServiceStub(channel) for channel in self._channels]
        self.changes: list[Any] = [change_pb2_grpc.ChangeServiceStub(channel) for channel in self._channels]
        return self

    async def __aexit__(self, *_: object) -> None:
        for channel in self._channels:
            await channel.close()
