"""The silent leases are those that a look at every lease finds, whatever happens."""

from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from configsvc.app.registry.leases import silence
from configsvc.app.registry.leases.lease import Lease
from configsvc.app.registry.leases.lease_clock import LeaseClock, LeaseInstant
from configsvc.app.registry.leases.silence import SILENT_PART, SilentLeases
from configsvc.domain.instances import Incarnation, instance_ref
from configsvc.domain.records import Ref
from configsvc.storage.sqlite.storage import SqliteStorage
from tests.app.registry.world import HandClock

LENGTHS = (5.0, 10.0, 60.0)

numbers = st.integers(0, 5)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("begin"), numbers, st.sampled_from(LENGTHS)),
        st.tuples(st.just("length"), numbers, st.sampled_from(LENGTHS)),
        st.tuples(st.just("end"), numbers),
        st.tuples(st.just("heartbeat"), numbers),
        st.tuples(st.just("from store"), numbers),
        st.tuples(st.just("load again")),
        st.tuples(st.just("time"), st.sampled_from([0.5, 1.0, 3.0, 20.0])),
        st.tuples(st.just("jump"), st.sampled_from([0.5, 30.0])),
        st.tuples(st.just("paused")),
    ),
    max_size=60,
)


def is_silent(clock: LeaseClock, lease: Lease) -> bool:
    heard = lease.last_heartbeat
    if heard is None or heard.is_from_store or not lease.is_loaded:
        return True
    return clock.age(heard) >= SILENT_PART * lease.ttl_seconds


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps)
async def test_silent_leases_are_found_without_a_look_at_the_others(
    tmp_path: Path, steps: list[tuple[object, ...]]
) -> None:
    hand = HandClock()
    async with SqliteStorage(tmp_path / "configsvc.db") as storage:
        clock = LeaseClock(storage, hand)
        await clock.sync()
        found, leases = SilentLeases(clock), dict[Ref, Lease]()
        for step in steps:
            match step:
                case ("begin", number, ttl):
                    ref = instance_ref("svc", str(number))
                    leases[ref] = Lease(Incarnation(ref, len(leases)), float(str(ttl)), clock.now())
                    found.add(leases[ref])
                case ("length", number, ttl) if lease := leases.get(instance_ref("svc", str(number))):
                    lease.ttl_seconds = float(str(ttl))
                    found.add(lease)
                case ("end", number):
                    leases.pop(instance_ref("svc", str(number)), None)
                    found.remove(instance_ref("svc", str(number)))
                case ("heartbeat", number) if lease := leases.get(instance_ref("svc", str(number))):
                    lease.last_heartbeat, lease.is_loaded = clock.now(), True
                case ("from store", number) if lease := leases.get(instance_ref("svc", str(number))):
                    if not lease.is_loaded:
                        lease.last_heartbeat, lease.is_loaded = LeaseInstant(clock.seconds), True
                case ("load again",):
                    for lease in leases.values():
                        lease.is_loaded = False
                        found.add(lease)
                case ("time", seconds):
                    hand.forward(float(str(seconds)))
                case ("jump", seconds):
                    # Another replica has measured more.
                    await storage.advance_lease_clock(clock.seconds + float(str(seconds)))
                    await clock.sync()
                case ("paused",):
                    clock.discard_elapsed()
            expected = {lease.incarnation.ref for lease in leases.values() if is_silent(clock, lease)}
            assert {lease.incarnation.ref for lease in found.now()} == expected


async def test_leases_that_are_not_silent_are_not_looked_at(tmp_path: Path) -> None:
    async with SqliteStorage(tmp_path / "configsvc.db") as storage:
        hand = HandClock()
        clock = LeaseClock(storage, hand)
        found = SilentLeases(clock)
        for number in range(100):
            lease = Lease(
                Incarnation(instance_ref("svc", str(number)), 1), 10.0, clock.now(), clock.now(), is_loaded=True
            )
            found.add(lease)
        assert found.now() == []
        assert not found._silent
        hand.forward(4.9)
        assert found.now() == []
        hand.forward(0.2)
        assert len(found.now()) == 100


async def test_entries_of_ended_leases_are_removed(tmp_path: Path) -> None:
    async with SqliteStorage(tmp_path / "configsvc.db") as storage:
        clock = LeaseClock(storage, HandClock())
        found, ref = SilentLeases(clock), instance_ref("svc", "one")
        for number in range(3 * silence.VOID_ENTRIES):
            found.add(Lease(Incarnation(ref, number), 86_400.0, clock.now(), clock.now(), is_loaded=True))
            assert found.now() == []
            found.remove(ref)
        assert len(found._heard) <= silence.VOID_ENTRIES + 1
