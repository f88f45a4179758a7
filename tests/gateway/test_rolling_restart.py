"""The rolling restart on the embedded backends, and what happens if the new process of a worker does not serve."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import certifi
import httpx
import pytest

from configsvc.gateway.endpoints import Endpoints, EndpointsError
from configsvc.gateway.keeper import Keeper
from configsvc.gateway.rolling_restart import POLL_SECONDS, START_SECONDS, RollingRestart
from configsvc.gateway.workers import SERVING, Worker, Workers
from configsvc.tasks import BackgroundTasks
from tests.app.fake_clock import FakeClock, settle
from tests.e2e.conftest import Running, start, stop
from tests.engines.ports import Port
from tests.replicas.fleet import eventually
from tests.replicas.test_rolling_restart import pids, register, replaced, times_logged
from tests.replicas.test_workers import Load, Writes, create


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    file = tmp_path / "ca.pem"
    file.write_text(Path(certifi.where()).read_text())
    return file


@pytest.fixture
def embedded(tmp_path: Path, certificates: Path) -> Iterator[Running]:
    with Port() as port:
        running = start(tmp_path, port.number, HEALTH_CHECK_CA_FILE=str(certificates))
        yield running
        assert stop(running) == 0


def test_embedded_database_is_handed_to_the_next_process(embedded: Running) -> None:
    create(embedded)
    register(embedded)
    reads, writes = Load(embedded), Writes(embedded)
    writes.until(20)
    replaced(embedded)
    writes.until(len(writes.statuses) + 20)
    for load in (reads, writes):
        load.end()
    assert reads.failures == writes.failures == []
    assert set(reads.statuses) == {200}, reads.errors[:3]
    assert set(writes.statuses) == {201}, writes.errors[:3]
    with httpx.Client(base_url=embedded.url, timeout=20) as client:
        for first in range(0, len(writes.written), 100):
            body = {"keys": writes.written[first : first + 100], "environment": "test"}
            found = client.post("/api/v1/config/bulk", json=body).json()["configs"]
            assert sorted(config["key"] for config in found) == sorted(body["keys"])
        assert len(client.get("/api/v1/registry/discover/web").json()["instances"]) == 3


def test_workers_go_on_if_a_setting_has_become_wrong(embedded: Running, certificates: Path) -> None:
    good, before = certificates.read_text(), pids(embedded)
    certificates.write_text("not a certificate")
    os.kill(embedded.process.pid, signal.SIGHUP)
    eventually(lambda: times_logged(embedded, "the rolling restart stops"), "the restart stops")
    assert "HEALTH_CHECK_CA_FILE" in embedded.log.read_text()
    assert pids(embedded) == before
    assert httpx.get(f"{embedded.url}/ready").status_code == 200
    certificates.write_text(good)
    replaced(embedded)


class FakeChild:
    """A process that runs until it is stopped or the test ends it."""

    name = "worker 0"

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self.ended.set()

    @property
    def runs(self) -> bool:
        return not self.ended.is_set()

    async def start(self) -> None:
        self.ended.clear()

    async def wait(self) -> int:
        await self.ended.wait()
        return 0

    async def stop(self, within_seconds: float) -> None:
        self.ended.set()

    async def kill_and_wait(self) -> None:
        self.ended.set()


class FakeWorkers(Workers):
    """One worker, whose processes are fakes."""

    take_turns = False

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def first(self) -> list[Worker]:
        return [self._make(0, "a")]

    def _make(self, number: int, place: str) -> Worker:
        return Worker(number, place, place, self._directory / place, FakeChild())  # type: ignore[arg-type]


class FakeEndpoints(Endpoints):
    """Remembers the lists that Envoy is given. `follows`: whether it uses them."""

    def __init__(self) -> None:
        self.follows = True
        self.lists: list[list[str]] = []

    def write(self, addresses: Sequence[str]) -> None:
        self.lists.append(list(addresses))

    async def replace(self, addresses: Sequence[str], *, healthy: str = "") -> None:
        self.write(addresses)
        if not self.follows:
            raise EndpointsError("it does not")


class Restarted:
    """A rolling restart that has started its new process, on a fake clock."""

    def __init__(self, directory: Path) -> None:
        self.state_file = directory / "b"
        self.clock, self.endpoints = FakeClock(), FakeEndpoints()
        self.keeper = Keeper(self.clock, lambda _: None)
        self.restart = RollingRestart(FakeWorkers(directory), self.keeper, self.endpoints, self.clock, stop_seconds=1)
        self._tasks = BackgroundTasks("test")

    async def begin(self) -> None:
        await self.restart.start_workers()
        (self.old,) = self.keeper._started
        self._tasks.start(self.restart.run())
        self.restart.request()
        await settle()
        self.new = self.keeper._started[1]

    async def close(self) -> None:
        await self._tasks.stop()
        await self.keeper.close()

    def goes_on(self) -> bool:
        """Whether the old process alone runs and gets calls."""
        return self.old.runs and not self.new.runs and self.endpoints.lists[-1] == ["a"]


@pytest.fixture
async def restarted(tmp_path: Path) -> AsyncIterator[Restarted]:
    restarted = Restarted(tmp_path)
    await restarted.begin()
    yield restarted
    await restarted.close()


async def test_old_process_ends_after_the_new_one_gets_the_calls(restarted: Restarted) -> None:
    await restarted.clock.advance(POLL_SECONDS)
    assert restarted.endpoints.lists == [["a"]]
    assert restarted.old.runs
    restarted.state_file.write_text(SERVING)
    await restarted.clock.advance(POLL_SECONDS)
    assert restarted.endpoints.lists == [["a"], ["a", "b"], ["b"]]
    assert restarted.new.runs
    assert not restarted.old.runs


async def test_old_process_goes_on_if_the_new_one_never_serves(restarted: Restarted) -> None:
    await restarted.clock.advance(START_SECONDS - 2 * POLL_SECONDS)
    assert restarted.new.runs
    await restarted.clock.advance(3 * POLL_SECONDS)
    assert restarted.goes_on()


async def test_old_process_goes_on_if_the_new_one_ends(restarted: Restarted) -> None:
    await restarted.new.stop(0)
    await restarted.clock.advance(POLL_SECONDS)
    assert restarted.goes_on()


async def test_old_process_goes_on_if_envoy_does_not_use_the_new_one(restarted: Restarted) -> None:
    restarted.endpoints.follows = False
    restarted.state_file.write_text(SERVING)
    await restarted.clock.advance(POLL_SECONDS)
    assert restarted.goes_on()


async def test_restart_can_be_repeated_after_it_has_failed(restarted: Restarted) -> None:
    await restarted.new.stop(0)
    await restarted.clock.advance(POLL_SECONDS)
    restarted.restart.request()
    await settle()
    restarted.state_file.write_text(SERVING)
    await restarted.clock.advance(POLL_SECONDS)
    assert restarted.endpoints.lists[-1] == ["b"]
    assert not restarted.old.runs
