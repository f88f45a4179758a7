"""SIGHUP replaces every worker of `configsvc up` by a new process. Nobody may notice: no request fails, no change is missed
by a watcher, no instance leaves discovery."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import grpc
import httpx
import pytest
from configsvc_client.v1 import config_pb2, config_pb2_grpc, registry_pb2, registry_pb2_grpc
from google.protobuf.struct_pb2 import Value

from tests.e2e.conftest import Running, start, stop
from tests.engines.ports import Port
from tests.engines.service_set import ServiceSet
from tests.replicas.conftest import own_settings
from tests.replicas.fleet import eventually
from tests.replicas.test_workers import Load, Writes, create, workers

INSTANCES = ("i-1", "i-2", "i-3")


@contextmanager
def service_with(services: ServiceSet, directory: Path, **settings: str) -> Iterator[Running]:
    with own_settings(services) as own, Port() as port:
        running = start(directory, port.number, **own, **settings)
        try:
            yield running
        finally:
            if running.process.poll() is None:
                assert stop(running) == 0


def pids(running: Running) -> set[int]:
    return {worker.pid for worker in workers(running)}


def hang_up(running: Running) -> None:
    os.kill(running.process.pid, signal.SIGHUP)


def times_logged(running: Running, text: str) -> int:
    return running.log.read_text().count(text)


def replaced(running: Running, *, impatient: bool = False) -> None:
    """Restarts the workers, and waits until they were replaced. If `impatient`, asks again while they are."""
    before = pids(running)
    begun, done = (times_logged(running, f"rolling restart{text}") for text in (" of", ": done"))
    hang_up(running)
    eventually(lambda: times_logged(running, "rolling restart of") > begun, "the restart begins")
    if impatient:
        for _ in range(3):
            hang_up(running)
    eventually(
        lambda: times_logged(running, "rolling restart: done") > done + impatient,
        f"the workers are replaced; the log: {running.log}",
    )
    assert times_logged(running, "rolling restart of") == begun + 1 + impatient, "many requests are one more restart"
    assert len(pids(running)) == len(before)
    assert not pids(running) & before


class GrpcCalls:
    """Calls in a thread until the end; `failures` has what went wrong."""

    def __init__(self, running: Running, call: Callable[[grpc.Channel, int], None]) -> None:
        self.calls, self.failures = 0, list[str]()
        self._target, self._call = running.target, call
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with grpc.insecure_channel(self._target) as channel:
            while not self._end.is_set():
                try:
                    self._call(channel, self.calls)
                except (grpc.RpcError, AssertionError) as error:
                    self.failures.append(repr(error))
                self.calls += 1

    def end(self) -> None:
        self._end.set()
        self._thread.join(30)


class Watcher:
    """Reads the changes of an environment, and resumes the watch whenever it ends. Keeps the keys, in order."""

    def __init__(self, running: Running) -> None:
        self.keys: list[str] = []
        self.endings: list[grpc.StatusCode] = []
        self.synced = threading.Event()
        self._channel = grpc.insecure_channel(running.target)
        self._stub = config_pb2_grpc.ConfigServiceStub(self._channel)
        self._ended = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self.synced.wait(30)

    def _run(self) -> None:
        revision: int | None = None
        while not self._ended:
            try:
                request = config_pb2.WatchConfigsRequest(environment="test", prefix="w-", after_revision=revision)
                for message in self._stub.WatchConfigs(request):
                    if message.HasField("change"):
                        self.keys.append(message.change.config.key)
                        revision = message.change.revision
                    elif message.HasField("synced"):
                        revision = message.synced.revision
                        self.synced.set()
                    elif message.HasField("progress"):
                        revision = message.progress.revision
            except grpc.RpcError as error:
                self.endings.append(error.code())

    def end(self) -> None:
        self._ended = True
        self._channel.close()
        self._thread.join(30)


def read(channel: grpc.Channel, number: int) -> None:
    stub = config_pb2_grpc.ConfigServiceStub(channel)
    answer = stub.GetConfig(config_pb2.GetConfigRequest(key="k", environment="test"), timeout=20)
    assert answer.config.value.string_value == "v"


def write(channel: grpc.Channel, number: int) -> None:
    stub = config_pb2_grpc.ConfigServiceStub(channel)
    request = config_pb2.CreateConfigRequest(key=f"grpc-{number}", environment="test", value=Value(number_value=number))
    assert stub.CreateConfig(request, timeout=20).config.version == 1


def discover(registered: int, channel: grpc.Channel, number: int) -> None:
    stub = registry_pb2_grpc.RegistryServiceStub(channel)
    # Another worker may not have applied the registrations yet.
    request = registry_pb2.DiscoverInstancesRequest(service_name="web", min_revision=registered)
    answer = stub.DiscoverInstances(request, timeout=20)
    assert {instance.instance_id for instance in answer.instances} == set(INSTANCES), answer
    own = stub.DiscoverInstances(registry_pb2.DiscoverInstancesRequest(service_name="configsvc"), timeout=20)
    assert own.instances, "one of the workers is always registered"


def register(running: Running) -> int:
    """Returns the revision of the last registration."""
    for instance in INSTANCES:
        body = {"service_name": "web", "instance_id": instance, "service_url": "http://127.0.0.1:9/"}
        url = f"{running.url}/api/v1/registry/register"
        answer = httpx.post(url, json={**body, "lease_ttl_seconds": 300}, timeout=20)
        assert answer.status_code == 201
    return int(answer.headers["x-revision"])


@pytest.mark.parametrize(("number", "engine"), [(1, "native"), (2, "native"), (2, "grpcio")])
def test_nobody_notices_a_rolling_restart(services: ServiceSet, tmp_path: Path, number: int, engine: str) -> None:
    settings = {"WORKERS": str(number), "GRPC_ENGINE": engine, "SHUTDOWN_GRACE_SECONDS": "5"}
    with service_with(services, tmp_path, **settings) as running:
        create(running)
        registered = register(running)
        watcher = Watcher(running)
        reads, writes = Load(running), Writes(running)
        calls = [GrpcCalls(running, call) for call in (read, write, partial(discover, registered))]
        replaced(running, impatient=True)
        before = len(writes.statuses)
        writes.until(before + 50)
        replaced(running)
        for load in (reads, writes):
            load.end()
        for call in calls:
            call.end()
        assert reads.failures == writes.failures == []
        assert set(reads.statuses) == {200}, reads.errors[:3]
        assert set(writes.statuses) == {201}, writes.errors[:3]
        for call in calls:
            assert call.calls
            assert call.failures == []
        eventually(lambda: len(watcher.keys) >= len(writes.written), "the watcher has got every change")
        watcher.end()
        assert sorted(watcher.keys) == sorted(writes.written)
        assert watcher.endings, "the old workers end their watches"
