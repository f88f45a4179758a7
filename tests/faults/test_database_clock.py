"""The database server's wall clock jumps. It dates heartbeats that reach a replica other than the owner."""

import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.engines.service_set import ServiceSet
from tests.replicas.conftest import own_settings
from tests.replicas.fleet import Replica, eventually, fleet

# A heartbeat comes before the lease ends, and the owner looks for it when the lease ends. Here a jump comes after a
# heartbeat was recorded and before the next one.
LEASE_SECONDS, BEAT_SECONDS, NOTED_SECONDS = 5, 3.0, 1.0
# How long an immediate action may take on a busy machine.
SLACK_SECONDS = 20.0

# These functions hide the server's own ones in every connection to this database.
MOVED = """
CREATE SCHEMA moved;
CREATE TABLE moved.clock (by interval NOT NULL);
INSERT INTO moved.clock VALUES ('0');
CREATE FUNCTION moved.now() RETURNS timestamptz STABLE LANGUAGE sql
    AS 'SELECT pg_catalog.now() + by FROM moved.clock';
CREATE FUNCTION moved.clock_timestamp() RETURNS timestamptz VOLATILE LANGUAGE sql
    AS 'SELECT pg_catalog.clock_timestamp() + by FROM moved.clock';
DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = moved, pg_catalog, public', current_database()); END $$;
"""


@pytest.fixture
def settings(services: ServiceSet) -> Iterator[dict[str, str]]:
    with own_settings(services) as own:
        with psycopg.connect(own["DATABASE_URL"]) as connection:
            connection.execute(MOVED)
        yield own


def move(url: str, hours: int) -> None:
    """Sets the server's clock, for this database, to an offset from the true time."""
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE moved.clock SET by = make_interval(hours => %s)", (hours,))
        off = connection.execute("SELECT extract(epoch FROM clock_timestamp()) - %s", (time.time(),)).fetchone()
        assert off is not None
        assert abs(float(off[0]) - hours * 3_600) < SLACK_SECONDS


@pytest.mark.parametrize("hours", [6, -6])
def test_lease_renewed_at_another_replica_ends_neither_early_nor_late(
    settings: dict[str, str], tmp_path: Path, hours: int
) -> None:
    with fleet(tmp_path, settings, "owner", "other") as (owner, other):
        for name in ("beating", "silent"):
            owner.register("dated", name, ttl=LEASE_SECONDS)
        eventually(lambda: other.discovered("dated") == ["beating", "silent"], "both are known")
        # Longer than the leases: each instance stays only because of heartbeats at the other replica.
        for _ in range(3):
            silent_since = beat(other, "beating", "silent")
            watch(owner, {"beating", "silent"}, silent_since + BEAT_SECONDS)
        silent_since = beat(other, "beating", "silent")
        watch(owner, {"beating", "silent"}, silent_since + NOTED_SECONDS)
        move(settings["DATABASE_URL"], hours)
        missing_at = watch(owner, {"beating"}, silent_since + BEAT_SECONDS)
        while not missing_at or time.monotonic() < silent_since + 4 * LEASE_SECONDS:
            beaten = beat(other, "beating")
            missing_at = missing_at or watch(owner, {"beating"}, beaten + BEAT_SECONDS)
            assert time.monotonic() < silent_since + 2 * LEASE_SECONDS + SLACK_SECONDS, "its lease never expires"
        # The expiry is recorded when the lease ends, or a little later.
        assert missing_at - silent_since >= LEASE_SECONDS - NOTED_SECONDS


def beat(replica: Replica, *names: str) -> float:
    """Sends a heartbeat; returns its time."""
    for name in names:
        replica.heartbeat("dated", name)
    return time.monotonic()


def watch(replica: Replica, names: set[str], until: float) -> float:
    """Asserts that these are always listed. Returns when the silent one was first missing; 0 if it never was."""
    missing_at = 0.0
    while time.monotonic() < until:
        listed = set(replica.discovered("dated"))
        assert names <= listed
        if "silent" not in listed:
            missing_at = missing_at or time.monotonic()
        time.sleep(0.05)
    return missing_at
