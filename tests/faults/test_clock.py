"""A replica whose wall clock jumps by hours, forward and back, while it serves; the clock of a second replica stays."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from configsvc_client.v1 import config_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from configsvc.cache.local import MIN_LIFETIME_FRACTION
from tests.engines.ports import Port
from tests.engines.service_set import ServiceSet
from tests.engines.valkey import Valkey
from tests.replicas.conftest import own_settings
from tests.replicas.fleet import ENVIRONMENT, Replica, eventually
from tests.replicas.test_replicas import Poll, Watcher

PROGRAM = Path(__file__).with_name("moved_replica.py")
# Offsets from the true time in hours. The clock jumps from one to the next, and is right again at the end.
JUMPS = (6.0, -6.0, 1_000.0, -1_000.0, 0.0)
LEASE_SECONDS, COPY_SECONDS = 5, 600
# How long an immediate action may take on a busy machine.
SLACK_SECONDS = 20.0


@dataclass(frozen=True)
class World:
    """Two replicas, and the clock offset of the first."""

    moved: Replica
    steady: Replica
    valkey: Valkey
    prefix: str
    offset: Path

    def move(self, hours: float) -> None:
        """Sets the clock to an offset from the true time."""
        written = self.offset.with_suffix(".new")
        written.write_text(str(hours * 3_600))
        os.replace(written, self.offset)

    @property
    def wall(self) -> datetime:
        """The time on the moved clock."""
        return datetime.now(UTC) + timedelta(seconds=float(self.offset.read_text()))


@pytest.fixture(scope="module")
def world(
    services: ServiceSet, private_valkey: Callable[[], Valkey], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("clock")
    valkey = private_valkey()
    offset = directory / "offset"
    offset.write_text("0")
    with own_settings(services) as own, ExitStack() as stack:
        settings = {
            **own,
            **valkey.environment(),
            "SERVICE_REGISTRY_ENABLED": "true",
            "LEASE_DEFAULT_TTL_SECONDS": str(LEASE_SECONDS),
            "CACHE_TTL_SECONDS": str(COPY_SECONDS),
            "WATCH_PROGRESS_SECONDS": "0.5",
        }
        replicas = []
        for name in ("moved", "steady"):
            replica = Replica(name, directory, settings, stack.enter_context(Port()).number)
            stack.callback(replica.close)
            replicas.append(replica)
        moved, steady = replicas
        moved.command = (sys.executable, str(PROGRAM), str(offset))
        for replica in replicas:
            replica.start()
        for replica in replicas:
            eventually(replica.is_ready, f"{replica.name} is ready; its log: {replica.log}")
        yield World(moved, steady, valkey, own["REDIS_PREFIX"], offset)


@pytest.fixture(autouse=True)
def clock_is_right(world: World) -> Iterator[None]:
    world.move(0)
    yield
    world.move(0)


def test_history_is_ordered_by_revision_and_not_by_time(world: World) -> None:
    watchers = [Watcher(world.moved), Watcher(world.steady)]
    revisions = []
    for number, hours in enumerate(JUMPS):
        world.move(hours)
        revisions.append(world.moved.put("order", 2 * number).revision)
        revisions.append(world.steady.put("order", 2 * number + 1).revision)
    assert revisions == sorted(set(revisions))
    request = config_pb2.ListConfigHistoryRequest(key="order", environment=ENVIRONMENT, page_size=3)
    for replica in (world.moved, world.steady):
        replica.get("order", min_revision=revisions[-1])
        history: list[config_pb2.ConfigVersion] = []
        while not history or request.page_token:
            page = replica.configs.ListConfigHistory(request, timeout=15)
            history += page.versions
            request.page_token = page.next_page_token
        assert [version.revision for version in history] == revisions[::-1]
        assert [version.version for version in history] == list(range(len(revisions), 0, -1))
        assert [change.revision for change in replica.trail(key="order")] == revisions
        times = [version.at.ToDatetime() for version in history]
        assert times != sorted(times, reverse=True), "the clock did not jump"
    streams = [[r for r, _, key in watcher.until(revisions[-1]) if key == "order"] for watcher in watchers]
    assert streams == [revisions, revisions]
    for watcher in watchers:
        watcher.end()


@pytest.mark.parametrize("hours", [6.0, -6.0])
def test_lease_ends_neither_early_nor_late(world: World, hours: float) -> None:
    moved, steady = world.moved, world.steady
    service = f"lease{hours:g}".replace("-", "-minus-")
    for replica in (moved, steady):
        eventually(lambda r=replica: r.discovered("configsvc") == ["moved", "steady"], "both show themselves")  # type: ignore[misc]
    own = [Poll(lambda r=replica: tuple(r.discovered("configsvc"))) for replica in (moved, steady)]
    registered = time.monotonic()
    moved.register(service, "silent", ttl=LEASE_SECONDS)
    for owner, name in ((moved, "here"), (steady, "there")):
        owner.register(service, name, ttl=LEASE_SECONDS)
    for replica in (moved, steady):
        eventually(lambda r=replica: len(r.discovered(service)) == 3, "all are known")  # type: ignore[misc]
    world.move(hours)
    expired_after: dict[str, float] = {}
    while time.monotonic() < registered + 2.5 * LEASE_SECONDS or len(expired_after) < 2:
        for replica in (moved, steady):
            # Each sends its heartbeats to the replica that does not own it.
            steady.heartbeat(service, "here")
            moved.heartbeat(service, "there")
            listed = replica.discovered(service)
            assert {"here", "there"} <= set(listed)
            if "silent" not in listed:
                expired_after.setdefault(replica.name, time.monotonic() - registered)
        assert time.monotonic() < registered + LEASE_SECONDS + SLACK_SECONDS, "its lease never expires"
        time.sleep(0.1)
    assert min(expired_after.values()) >= LEASE_SECONDS
    for poll in own:
        assert {("moved", "steady")} == set(poll.end()), "the replicas' own instances are still registered"


class Marks:
    """An idle watch that counts its progress messages."""

    def __init__(self, replica: Replica) -> None:
        request = config_pb2.WatchConfigsRequest(environment="idle")
        self._call: Any = replica.configs.WatchConfigs(request)
        self.count = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            for message in self._call:
                self.count += message.HasField("progress")
        except grpc.RpcError:
            return

    def end(self) -> None:
        self._call.cancel()
        self._thread.join(10)


def test_clock_jump_stalls_no_watch(world: World) -> None:
    marks, watcher = Marks(world.moved), Watcher(world.moved)
    for number, hours in enumerate(JUMPS):
        world.move(hours)
        before = marks.count
        eventually(lambda b=before: marks.count >= b + 3, "progress goes on", SLACK_SECONDS)  # type: ignore[misc]
        revision = world.steady.put("watched", number).revision
        assert watcher.until(revision)[-1] == (revision, "PUT", "watched")
    marks.end()
    watcher.end()


def test_clock_jump_changes_neither_cached_values_nor_the_ttl_of_copies(world: World) -> None:
    moved, steady = world.moved, world.steady
    moved.put("cached", -1)
    poll = Poll(lambda: moved.get("cached").config.version)
    for number, hours in enumerate(JUMPS):
        world.move(hours)
        for writer, reader in ((steady, moved), (moved, steady)):
            revision = writer.put("cached", number).revision
            assert reader.get("cached", min_revision=revision).config.revision == revision
            with world.valkey.client() as redis:
                eventually(lambda r=revision: _copied(redis, world.prefix, "cached") == r, "its copy is the newest")  # type: ignore[misc]
                # The mark of the log's revision has a longer TTL than the copies.
                keys = set(redis.scan_iter(f"{world.prefix}*")) - {f"{world.prefix}log".encode()}
                lives = [redis.pttl(key) / 1000 for key in keys]
            assert max(lives) <= COPY_SECONDS
            assert min(lives) >= COPY_SECONDS * MIN_LIFETIME_FRACTION - 180, "a copy expired early, or never expires"
    versions = poll.end()
    assert versions == sorted(versions)  # type: ignore[type-var]


def _copied(redis: Any, prefix: str, key: str) -> int:
    """The revision of the copy of a configuration."""
    # The history id is part of the key.
    (stored_key,) = redis.scan_iter(f"{prefix}*:config:*:{key}")
    return int(redis.get(stored_key)[:20])


def test_since_in_health_follows_the_current_clock(world: World) -> None:
    world.valkey.kill()
    try:
        eventually(lambda: world.moved.component("cache").state == "down", "health reports it")
        down_since = time.monotonic()
        for hours in JUMPS:
            world.move(hours)
            part = world.moved.component("cache")
            age = (world.wall - _aware(part.since)).total_seconds()
            assert 0 <= age <= time.monotonic() - down_since + SLACK_SECONDS
            assert part.detail.startswith(f"down since {_aware(part.since).isoformat()[:16]}")
        assert world.moved.is_ready()
    finally:
        world.valkey.start()
    eventually(lambda: world.moved.component("cache").state == "up", "it is back")


def _aware(at: Timestamp) -> datetime:
    return at.ToDatetime(tzinfo=UTC)
