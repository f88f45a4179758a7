"""The disk of the embedded database is full: writes are refused, nothing is lost, and the service recovers."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from configsvc_client.v1 import config_pb2, flag_pb2
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from tests.engines.ports import Port
from tests.faults.small_disk import Disk, SizeLimit, small_disk
from tests.replicas.fleet import ENVIRONMENT, Replica, eventually
from tests.replicas.test_replicas import Watcher

WRITERS = 8
# Refusals of each writer once the disk is full.
REFUSALS = 5
# Each value takes a few pages, so that the database must grow.
VALUE = "x" * 10_000


@pytest.fixture(params=[small_disk, lambda directory: SizeLimit(directory / "limited")], ids=["full", "limited"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    with request.param(tmp_path) as disk:
        yield disk


@contextmanager
def replica_on(disk: Disk, tmp_path: Path) -> Iterator[Replica]:
    settings = {"SQLITE_PATH": str(disk.directory / "configsvc.db"), "WATCH_PROGRESS_SECONDS": "0.5"}
    with Port() as port:
        replica = Replica("embedded", tmp_path, settings, port.number)
        replica.command = disk.command
        try:
            replica.started()
            yield replica
        finally:
            replica.close()


def refusal(call: Callable[[], object]) -> str:
    """The reason of a refusal, which must say when to retry; empty if the call succeeds."""
    try:
        call()
    except grpc.RpcError as error:
        return reason_of(error)
    return ""


def reason_of(error: grpc.RpcError) -> str:
    assert error.code() == grpc.StatusCode.UNAVAILABLE, error
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    assert any(detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for detail in status.details)
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return str(info.reason)


def create_flag(replica: Replica) -> object:
    request = flag_pb2.CreateFlagRequest(name="late", environment=ENVIRONMENT, enabled=True, description="x" * 1_000)
    return replica.flags.CreateFlag(request, timeout=15)


class Writers:
    """Eight writers; each repeats a refused write unchanged until it is accepted."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self.acknowledged: dict[str, int] = {}
        self.refused: list[str] = []
        self.refusals = [0] * WRITERS
        self.over = threading.Event()
        self._pool = ThreadPoolExecutor(WRITERS)
        self._running = [self._pool.submit(self._work, writer) for writer in range(WRITERS)]

    def _work(self, writer: int) -> None:
        number = 0
        while not self.over.is_set():
            key = f"{writer}-{number}"
            if reason := refusal(lambda key=key: self._put(key)):  # type: ignore[misc]
                assert reason == "STORAGE_FULL", reason
                self.refused.append(key)
                self.refusals[writer] += 1
                self.over.wait(0.02)
            else:
                number += 1

    def _put(self, key: str) -> None:
        self.acknowledged[key] = self._replica.put(key, VALUE).revision

    def are_refused(self) -> bool:
        """Whether each has been refused often enough; raises the error that ended a writer."""
        for writer in self._running:
            if writer.done():
                writer.result()
        return min(self.refusals) >= REFUSALS

    def end(self) -> None:
        self.over.set()
        for writer in self._running:
            writer.result()
        self._pool.shutdown()


def read(replica: Replica, key: str) -> tuple[config_pb2.Config, bool]:
    """Reads a configuration; returns it and whether the answer is marked stale."""
    request = config_pb2.GetConfigRequest(key=key, environment=ENVIRONMENT)
    response, call = replica.configs.GetConfig.with_call(request, timeout=15)
    return response.config, dict(call.trailing_metadata()).get("x-stale") == "true"


def check_reads(replica: Replica, acknowledged: dict[str, int]) -> dict[str, int]:
    """Asserts that all acknowledged writes are read, fresh and whole, without a gap in revisions. Returns all stored keys."""
    for key, revision in acknowledged.items():
        config, is_stale = read(replica, key)
        assert (config.version, config.revision, config.value.string_value, is_stale) == (1, revision, VALUE, False)
    trail = replica.trail()
    assert [change.revision for change in trail] == list(range(1, len(trail) + 1))
    recorded = {change.key: change.revision for change in trail if change.kind == "config"}
    assert acknowledged.items() <= recorded.items()
    return recorded


def test_full_disk_refuses_writes_and_loses_nothing(disk: Disk, tmp_path: Path) -> None:
    with replica_on(disk, tmp_path) as replica:
        replica.register("before", "one", ttl=3600)
        watcher = Watcher(replica)
        writers = Writers(replica)
        eventually(lambda: len(writers.acknowledged) > 20, "writes are accepted")
        disk.fill(replica.pid)
        eventually(writers.are_refused, "every writer is refused")
        # Every kind of write is refused with a reason.
        assert refusal(lambda: replica.put("one-more", VALUE)) == "STORAGE_FULL"
        assert refusal(lambda: replica.register("late", "one")) == "STORAGE_FULL"
        assert refusal(lambda: create_flag(replica)) == "STORAGE_FULL"
        # Reads are still answered, from memory and from the disk.
        check_reads(replica, dict(writers.acknowledged))
        replica.heartbeat("before", "one")
        assert replica.discovered("before") == ["one"]
        part = replica.component("storage")
        assert part.state == "down"
        assert "disk is full" in part.detail
        assert "reads go on" in part.detail
        assert replica.is_ready()
        refused = {key for key in writers.refused if key not in writers.acknowledged}
        assert refused
        disk.free(replica.pid)
        eventually(lambda: refused <= writers.acknowledged.keys(), "the refused writes are accepted")
        writers.end()
        eventually(lambda: replica.failures() == [], "health reports it")
        # A refused write leaves nothing: there is no unacknowledged key and no missing revision.
        assert check_reads(replica, writers.acknowledged) == writers.acknowledged
        assert replica.discovered("late") == []
        in_order = sorted(writers.acknowledged.values())
        assert [revision for revision, _, _ in watcher.until(in_order[-1])] == in_order
        watcher.end()
        replica.kill()
        replica.started()
        assert check_reads(replica, writers.acknowledged) == writers.acknowledged


def test_replica_without_writers_detects_free_space(disk: Disk, tmp_path: Path) -> None:
    with replica_on(disk, tmp_path) as replica:
        disk.fill(replica.pid)
        eventually(lambda: refusal(lambda: replica.put("refused", VALUE)) == "STORAGE_FULL", "it is refused")
        assert [failure.split(":")[0] for failure in replica.failures()] == ["storage"]
        assert replica.failures() == replica.failures(), "`since` stays the same"
        disk.free(replica.pid)
        eventually(lambda: replica.failures() == [], "health is up again")
        assert [change.key for change in replica.trail()] == [], "it wrote nothing to detect free space"


def test_replica_killed_on_a_full_disk_starts_on_it_and_reads(tmp_path: Path) -> None:
    with small_disk(tmp_path) as disk, replica_on(disk, tmp_path) as replica:
        acknowledged = {f"key-{number}": replica.put(f"key-{number}", VALUE).revision for number in range(30)}
        disk.fill(replica.pid)
        eventually(lambda: refusal(lambda: replica.put("refused", VALUE)) == "STORAGE_FULL", "it is refused")
        replica.kill()
        replica.started()
        assert check_reads(replica, acknowledged) == acknowledged
        disk.free(replica.pid)
        eventually(lambda: replica.put("refused", VALUE), "writes are accepted")
