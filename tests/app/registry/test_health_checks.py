"""Health checks on a fake clock: in time, fair, and bounded; a check that could not run is not a result."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import pairwise

import pytest

from configsvc.app.registry.health_checks.check_queue import CONCURRENT_CHECKS, SERVICE_CHECKS, UNPROVEN_CHECKS
from configsvc.app.registry.health_checks.checks import BUSY, JITTER, HealthChecks, Thresholds
from configsvc.app.registry.health_checks.fair_queue import FairQueue
from configsvc.domain.instances import Instance, instance_ref
from configsvc.domain.records import Put, Record, View
from configsvc.domain.registrations import Registration, register, with_defaults
from configsvc.errors import Unavailable
from configsvc.probes.port import ProbeBusyError, ProbeFailedError, ProbeUnansweredError
from configsvc.tasks import Supervisor
from tests.app.fake_clock import FakeClock, settle

AT = datetime(2025, 1, 1, tzinfo=UTC)
INTERVAL_SECONDS, TIMEOUT_SECONDS = 10.0, 2.0


def registered(service: str, instance_id: str, url: str, ttl: int = 30, incarnation: int = 1) -> Record:
    ref = instance_ref(service, instance_id)
    said = Registration(service, "http://h:1", instance_id, health_check_url=url, lease_ttl_seconds=ttl)
    (put,) = register(with_defaults(said, 30), "me", (), View(0, {}, {ref: incarnation - 1}))
    assert isinstance(put, Put)
    return Record(ref, incarnation, incarnation, put.body, AT, AT, "")


class Targets:
    """A probe. The kind of target is the first part of the host: `well` passes at once, `ill` fails at once, `hang` takes the
    whole time-out, and `busy` is not checked at all."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.at: dict[str, list[float]] = defaultdict(list)
        self.now: Counter[str] = Counter()
        self.most: Counter[str] = Counter()

    async def check(self, url: str) -> None:
        kind, _, rest = url.removeprefix("http://").partition(".")
        service = rest.partition(":")[0]
        self.at[url].append(self._clock.monotonic())
        for name in (url, service, ""):
            self.now[name] += 1
            self.most[name] = max(self.most[name], self.now[name])
        try:
            if kind == "hang":
                await self._clock.sleep(TIMEOUT_SECONDS)
                raise ProbeUnansweredError("nothing came")
            if kind == "busy":
                raise ProbeBusyError
            if kind == "ill":
                raise ProbeFailedError("it answered 500")
        finally:
            for name in (url, service, ""):
                self.now[name] -= 1


class Results:
    """Records the results."""

    def __init__(self) -> None:
        self.by_instance: dict[str, list[tuple[bool, bool]]] = defaultdict(list)
        self.failing = False

    async def __call__(self, instance: Instance, passed: bool, is_threshold_reached: bool) -> None:
        self.by_instance[instance.instance_id].append((passed, is_threshold_reached))
        if self.failing:
            raise Unavailable("the store is down")


class World:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.targets, self.results = Targets(self.clock), Results()

    @asynccontextmanager
    async def checks(self, owns: Callable[[Record], bool] = lambda _: True) -> AsyncIterator[HealthChecks]:
        async with HealthChecks(
            probe=self.targets, clock=self.clock, thresholds=Thresholds(1, 3), interval_seconds=INTERVAL_SECONDS,
            timeout_seconds=TIMEOUT_SECONDS, owns=owns, on_result=self.results, supervisor=Supervisor(self.clock),
        ) as checks:  # fmt: skip
            await self.clock.asleep()
            yield checks


@pytest.fixture
def world() -> World:
    return World()


def gaps(times: list[float], until: float) -> list[float]:
    return [later - earlier for earlier, later in zip([0.0, *times], [*times, until], strict=True)]


async def test_each_instance_is_checked_once_an_interval(world: World) -> None:
    async with world.checks() as checks:
        for number in range(20):
            checks.on_put(registered("svc", f"i{number}", f"http://well.svc:{number}", ttl=3600), None)
        await world.clock.advance(200)
        assert len(world.targets.at) == 20
        for times in world.targets.at.values():
            assert 200 / (INTERVAL_SECONDS * 1.3) - 1 <= len(times) <= 200 / (INTERVAL_SECONDS * 0.8) + 1
            assert max(gaps(times, 200)) <= INTERVAL_SECONDS * 1.3


@pytest.mark.parametrize("ttl", [5, 10, 12, 29])
async def test_instance_with_a_lease_shorter_than_the_interval_is_checked_in_time(world: World, ttl: int) -> None:
    async with world.checks() as checks:
        for number in range(20):
            checks.on_put(registered("svc", f"i{number}", f"http://well.svc:{number}", ttl=ttl), None)
        await world.clock.advance(100)
        for times in world.targets.at.values():
            assert max(gaps(times, 100)) < ttl / 2


async def test_hanging_service_does_not_delay_another_service(world: World) -> None:
    async with world.checks() as checks:
        for number in range(2_000):
            checks.on_put(registered("bad", f"b{number}", f"http://hang.bad:{number}"), None)
        await world.clock.advance(20)
        for number in range(5):
            checks.on_put(registered("good", f"g{number}", f"http://well.good:{number}"), None)
        await world.clock.advance(60)
        for number in range(5):
            assert max(gaps([t - 20 for t in world.targets.at[f"http://well.good:{number}"]], 60)) < 30 / 2
            assert world.results.by_instance[f"g{number}"][0] == (True, True)
        assert world.targets.most["bad"] == SERVICE_CHECKS
        assert world.targets.most[""] <= CONCURRENT_CHECKS
        assert max(world.targets.most[url] for url in world.targets.at) == 1, "one check of an instance at a time"
        checked = len([url for url in world.targets.at if "hang" in url])
        assert checked >= 0.9 * SERVICE_CHECKS * 80 / (TIMEOUT_SECONDS + 0.25), "its checks go on, one after the other"


async def test_many_hanging_services_do_not_delay_passing_instances(world: World) -> None:
    async with world.checks() as checks:
        for number in range(5):
            checks.on_put(registered("good", f"g{number}", f"http://well.good:{number}"), None)
        await world.clock.advance(10)
        for number in range(1_000):
            checks.on_put(registered(f"bad{number}", "b", f"http://hang.bad{number}:1"), None)
        await world.clock.advance(100)
        for number in range(5):
            assert max(gaps(world.targets.at[f"http://well.good:{number}"], 110)) < 30 / 2
        assert world.targets.most[""] <= UNPROVEN_CHECKS + 5


async def test_waiting_checks_are_bounded_by_the_number_of_instances(world: World) -> None:
    async with world.checks() as checks:
        for number in range(500):
            checks.on_put(registered("bad", f"b{number}", f"http://hang.bad:{number}", ttl=5), None)
        await world.clock.advance(120)
        assert checks._queue.waiting + checks._queue.scheduled <= 500
        assert len(checks._background._tasks) <= CONCURRENT_CHECKS + 1


async def test_busy_target_gives_no_result_and_is_tried_again(world: World) -> None:
    async with world.checks() as checks:
        record = registered("svc", "one", "http://busy.svc:1")
        checks.on_put(record, None)
        await world.clock.advance(100)
        assert not world.results.by_instance
        assert 10 <= len(world.targets.at["http://busy.svc:1"]) <= 30, "tried again, with growing pauses"
        assert checks.check_before_expiry(record), "the lease waits for a check"
        caller = asyncio.create_task(checks.check(Instance.of(record)))
        await world.clock.advance(20)
        result = await caller
        assert (result.skipped, result.passed, result.error) == (True, True, BUSY)


async def test_check_comes_before_expiry_unless_the_last_check_failed(world: World) -> None:
    async with world.checks() as checks:
        well, ill = (
            registered("svc", "well", "http://well.svc:1", ttl=3600),
            registered("svc", "ill", "http://ill.svc:2"),
        )
        for record in (well, ill):
            checks.on_put(record, None)
            assert checks.check_before_expiry(record), "there was no check yet"
        await world.clock.advance(10)
        assert not checks.check_before_expiry(ill)
        count = len(world.targets.at["http://well.svc:1"])
        assert checks.check_before_expiry(well)
        await world.clock.advance(0.5)
        assert len(world.targets.at["http://well.svc:1"]) == count + 1, "due at once"
        again = registered("svc", "ill", "http://ill.svc:2", incarnation=3)
        checks.on_put(again, None)
        assert checks.check_before_expiry(again), "the failure of the earlier incarnation does not count"
        unchecked = registered("svc", "unchecked", "")
        checks.on_put(unchecked, None)
        assert not checks.check_before_expiry(unchecked)


async def test_check_before_expiry_replaces_the_scheduled_one(world: World) -> None:
    async with world.checks() as checks:
        record = registered("svc", "one", "http://well.svc:1", ttl=3600)
        checks.on_put(record, None)
        await world.clock.advance(INTERVAL_SECONDS)
        assert checks.check_before_expiry(record)
        await world.clock.advance(0.5)
        times = world.targets.at["http://well.svc:1"]
        demanded = len(times)
        await world.clock.advance(10 * INTERVAL_SECONDS)
        between = [later - earlier for earlier, later in pairwise(times[demanded - 1 :])]
        assert min(between) >= INTERVAL_SECONDS * (1 - JITTER), "the earlier due time no longer counts"


async def test_concurrent_callers_share_one_check(world: World) -> None:
    async with world.checks(owns=lambda _: False) as checks:
        instance = Instance.of(registered("svc", "one", "http://hang.svc:1"))
        callers = [asyncio.create_task(checks.check(instance)) for _ in range(50)]
        await world.clock.advance(5)
        results = await asyncio.gather(*callers)
        assert len(world.targets.at["http://hang.svc:1"]) == 1
        assert {(r.passed, r.skipped, r.latency_ms) for r in results} == {(False, False, 0.0)}
        await world.clock.advance(60)
        assert len(world.targets.at["http://hang.svc:1"]) == 1, "an instance of another replica is not checked again"
        assert not checks._states


async def test_checks_without_an_answer_take_equally_long(world: World) -> None:
    """Else the time would distinguish a refused connection from one that hangs."""

    async def refused(url: str) -> None:
        raise ProbeUnansweredError("refused")

    world.targets.check = refused  # type: ignore[method-assign]
    async with world.checks() as checks:
        caller = asyncio.create_task(checks.check(Instance.of(registered("svc", "one", "http://h:1"))))
        await world.clock.advance(TIMEOUT_SECONDS - 0.1)
        assert not caller.done()
        await world.clock.advance(0.2)
        assert (await caller).error == str(ProbeUnansweredError("anything"))


async def test_failed_write_of_a_status_is_repeated_and_raised_to_the_caller(world: World) -> None:
    world.results.failing = True
    async with world.checks() as checks:
        record = registered("svc", "one", "http://well.svc:1")
        checks.on_put(record, None)
        await world.clock.advance(60)
        assert len(world.results.by_instance["one"]) >= 4
        with pytest.raises(Unavailable):
            await checks.check(Instance.of(record))


async def test_checks_go_on_after_a_bug_in_a_probe(world: World) -> None:
    count = 0

    async def broken(url: str) -> None:
        nonlocal count
        count += 1
        raise RuntimeError("a bug")

    world.targets.check = broken  # type: ignore[method-assign]
    async with world.checks() as checks:
        checks.on_put(registered("svc", "one", "http://h:1"), None)
        await world.clock.advance(100)
        assert count >= 8
        assert not checks._queue.running


async def test_removed_or_transferred_instance_is_not_checked(world: World) -> None:
    owned = True
    async with world.checks(owns=lambda _: owned) as checks:
        left, moved = registered("svc", "left", "http://well.svc:1"), registered("svc", "moved", "http://well.svc:2")
        for record in (left, moved):
            checks.on_put(record, None)
        checks.on_remove(left)
        owned = False
        checks.on_put(moved, moved)
        await world.clock.advance(100)
        assert not world.targets.at
        await settle()


def test_fair_queue_takes_groups_in_turn() -> None:
    queue = FairQueue[str]()
    for number in range(3):
        queue.put("a", f"a{number}")
    queue.put("b", "b0")
    queue.put("c", "c0")
    order = [queue.take(lambda service: service != "c") for _ in range(5)]
    assert order == ["a0", "b0", "a1", "a2", None]
    assert queue.take(lambda _: True) == "c0"
    assert queue.take(lambda _: True) is None
