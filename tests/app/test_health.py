"""The health of a replica and its components, on a fake clock."""

import asyncio
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

from configsvc.app.health import CHECK_SECONDS, Component, ComponentHealth, Health, ReplicaHealth
from configsvc.errors import Unavailable
from tests.app.fake_clock import FakeClock


class JumpingClock(FakeClock):
    """A fake clock whose wall time the test can move without its monotonic time."""

    def jump(self, by: timedelta) -> None:
        self._start += by


class Backend:
    """A backend that answers, refuses, or hangs."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.hangs = False
        self.cancelled_pings = 0

    async def ping(self) -> None:
        if self.hangs:
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled_pings += 1
        if self.error is not None:
            raise self.error


async def effect() -> str:
    return "writes are refused"


def replica_of(
    clock: FakeClock, ping: Callable[[], Coroutine[Any, Any, None]], is_complete: Callable[[], bool] = lambda: True
) -> ReplicaHealth:
    return ReplicaHealth(
        (Component("storage", "sqlite", ping, effect), Component("tasks", "in process")), clock, is_complete
    )


def storage(health: Health) -> ComponentHealth:
    return health.components[0]


async def test_component_that_answers_is_up() -> None:
    health = await replica_of(FakeClock(), Backend().ping).check()
    assert (health.status, health.ready) == ("up", True)
    assert [(c.name, c.state, c.detail) for c in health.components] == [("storage", "up", ""), ("tasks", "up", "")]


async def test_component_that_refuses_is_down_and_its_replica_degraded_but_ready() -> None:
    clock, backend = FakeClock(), Backend()
    backend.error = Unavailable("connection refused")
    health = await replica_of(clock, backend.ping).check()
    assert (health.status, health.ready, storage(health).state) == ("degraded", True, "down")
    since = clock.now().isoformat()
    assert storage(health).detail == f"down since {since}: connection refused; writes are refused"


async def test_component_that_hangs_is_down_after_the_time_limit_and_its_ping_is_cancelled() -> None:
    clock, backend = FakeClock(), Backend()
    backend.hangs = True
    check = asyncio.create_task(replica_of(clock, backend.ping).check())
    await clock.asleep()
    await clock.advance(CHECK_SECONDS * 0.99)
    assert not check.done()
    await clock.advance(CHECK_SECONDS * 0.01)
    health = await check
    assert storage(health).state == "down"
    assert "no answer within 1 s; writes are refused" in storage(health).detail
    assert storage(health).latency_ms == CHECK_SECONDS * 1000
    assert backend.cancelled_pings == 1


async def test_cancelled_check_cancels_its_pings() -> None:
    clock, backend = FakeClock(), Backend()
    backend.hangs = True
    check = asyncio.create_task(replica_of(clock, backend.ping).check())
    await clock.asleep()
    check.cancel()
    await asyncio.gather(check, return_exceptions=True)
    await clock.advance(0)
    assert backend.cancelled_pings == 1


async def test_degraded_component_and_note() -> None:
    texts = {"degradation": "", "note": "3 changes wait"}
    bus = Component("bus", "kafka", degradation=lambda: texts["degradation"], note=lambda: texts["note"])
    replica = ReplicaHealth((bus,), FakeClock(), lambda: True)
    assert [(c.state, c.detail) for c in (await replica.check()).components] == [("up", "3 changes wait")]
    texts["degradation"] = "events leave late"
    health = await replica.check()
    assert (health.status, health.components[0].state) == ("degraded", "degraded")
    assert health.components[0].detail.endswith(": events leave late")


async def test_replica_is_not_ready_until_its_view_is_complete_nor_while_it_stops() -> None:
    complete = False
    replica = replica_of(FakeClock(), Backend().ping, lambda: complete)
    health = await replica.check()
    assert (health.status, health.ready) == ("down", False)
    complete = True
    assert (await replica.check()).ready
    replica.stopping = True
    assert not (await replica.check()).ready


async def test_state_has_lasted_since_it_changed() -> None:
    clock, backend = FakeClock(), Backend()
    replica = replica_of(clock, backend.ping)
    await replica.check()
    started = clock.now()
    await clock.advance(10)
    assert storage(await replica.check()).since == started
    backend.error = Unavailable("away")
    assert storage(await replica.check()).since == started + timedelta(seconds=10)
    await clock.advance(5)
    assert storage(await replica.check()).since == started + timedelta(seconds=10)


async def test_jump_of_the_wall_clock_moves_since_with_it() -> None:
    clock = JumpingClock()
    replica = replica_of(clock, Backend().ping)
    await replica.check()
    started = clock.now()
    await clock.advance(10)
    clock.jump(timedelta(hours=-1))
    assert storage(await replica.check()).since == started - timedelta(hours=1), "10 s ago on the clock as it is now"
