"""A heartbeat is no write. What is recorded of heartbeats is counted here."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from configsvc.app.registry.leases.leases import RECORD_LEASES, SWEEP_SECONDS, SYNC_SECONDS
from configsvc.app.registry.service_registry import ServiceRegistry
from configsvc.clock import SystemClock
from configsvc.domain.instances import Incarnation
from configsvc.domain.records import Write
from tests.app.registry.world import ME, World, registration

TTL_SECONDS, INSTANCES = 20, 50


@dataclass
class Statements:
    """Counts what reaches the store. `rows`: of `record_heartbeats`."""

    records: int = 0
    rows: int = 0
    syncs: int = 0
    writes: int = 0


@pytest.fixture
def statements(world: World, monkeypatch: pytest.MonkeyPatch) -> Statements:
    counted, storage = Statements(), world.storage
    record, advance, write = storage.record_heartbeats, storage.advance_lease_clock, storage.write

    async def counting_record(seen: Mapping[Incarnation, float]) -> None:
        counted.records += 1
        counted.rows += len(seen)
        await record(seen)

    async def counting_advance(clock_seconds: float) -> float:
        counted.syncs += 1
        return await advance(clock_seconds)

    async def counting_write(asked: Write) -> Any:
        counted.writes += 1
        return await write(asked)

    monkeypatch.setattr(storage, "record_heartbeats", counting_record)
    monkeypatch.setattr(storage, "advance_lease_clock", counting_advance)
    monkeypatch.setattr(storage, "write", counting_write)
    return counted


NAMES = [f"i{number}" for number in range(INSTANCES)]


async def register_all(owner: ServiceRegistry, *others: ServiceRegistry) -> None:
    for name in NAMES:
        await owner.directory.register(registration(name, lease_ttl_seconds=TTL_SECONDS), ME)
    for replica in others:
        while replica.registrations.count < INSTANCES:
            await SystemClock().sleep(0.001)


async def heartbeats(replica: ServiceRegistry, names: Collection[str] = NAMES) -> None:
    for name in names:
        await replica.directory.heartbeat("svc", name)


async def test_heartbeats_at_the_owner_are_hardly_ever_recorded(world: World, statements: Statements) -> None:
    async with world.replica("a") as owner:
        await register_all(owner)
        await world.pass_time(2)
        before = Statements(statements.records, statements.rows, statements.syncs, statements.writes)
        rounds = RECORD_LEASES * 4
        for _ in range(rounds):
            await world.pass_time(TTL_SECONDS / 4)
            await heartbeats(owner)
        await world.pass_time(2)
        assert rounds * INSTANCES == 2_000
        assert statements.writes == before.writes
        assert statements.rows - before.rows <= INSTANCES, "one record of each in so many leases"
        assert statements.records - before.records < rounds
        assert statements.syncs - before.syncs < rounds


async def test_heartbeats_of_a_sweep_at_another_replica_are_one_statement(world: World, statements: Statements) -> None:
    async with world.replica("a") as owner, world.replica("b") as other:
        await register_all(owner, other)
        await world.pass_time(2)
        before = Statements(statements.records, statements.rows, statements.syncs, statements.writes)
        sweeps = 6
        for _ in range(sweeps):
            for _ in range(10):
                await heartbeats(other)
            await world.pass_time(SWEEP_SECONDS)
        await world.pass_time(SWEEP_SECONDS)
        assert statements.writes == before.writes
        # A sweep may see a part of the heartbeats.
        assert 1 <= statements.records - before.records <= 2 * sweeps
        assert statements.rows - before.rows <= 2 * sweeps * INSTANCES
        passed_seconds = (sweeps + 1) * SWEEP_SECONDS
        assert statements.syncs - before.syncs <= 2 * sweeps + 2 * passed_seconds / SYNC_SECONDS


async def test_first_heartbeat_after_a_grant_is_recorded(world: World) -> None:
    """Else the next owner would not grant a lease to an instance that has been alive since."""
    async with world.replica("a") as one:
        await register_all(one)
        await world.pass_time(2)
        async with world.replica("b") as two:
            await one.handover.hand_over()
            while any(two.registrations.get(record.ref) != record for record in one.registrations.all()):
                await SystemClock().sleep(0.001)
            await world.pass_time(2)
            incarnations = [Incarnation.of(record) for record in two.registrations.owned()]
            assert len(incarnations) == INSTANCES
            granted = await world.storage.heartbeats(incarnations)
            assert all(found.granted_at >= found.seen_at for found in granted.values())
            await heartbeats(two)
            await world.pass_time(2)
            heard = await world.storage.heartbeats(incarnations)
            assert all(found.granted_at < found.seen_at for found in heard.values())
