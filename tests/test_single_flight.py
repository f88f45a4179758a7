"""Concurrent callers of the same work share one run of it."""

import asyncio
import gc

import pytest

from configsvc.single_flight import SingleFlight


class Work:
    """Counts its runs, each of which ends when the test says so."""

    def __init__(self) -> None:
        self.runs: list[asyncio.Future[str]] = []
        self._began = asyncio.Condition()

    async def __call__(self) -> str:
        async with self._began:
            run: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            self.runs.append(run)
            self._began.notify_all()
        return await run

    async def began(self, runs: int) -> None:
        async with self._began:
            await self._began.wait_for(lambda: len(self.runs) == runs)


async def test_concurrent_callers_share_one_run_and_a_later_caller_starts_another() -> None:
    flights, work = SingleFlight[str, str]("test"), Work()
    first, second = (asyncio.create_task(flights.run("key", work)) for _ in range(2))
    await work.began(1)
    work.runs[0].set_result("one")
    assert [await first, await second] == ["one", "one"]
    third = asyncio.create_task(flights.run("key", work))
    await work.began(2)
    work.runs[1].set_result("two")
    assert await third == "two"


async def test_each_key_has_a_run_of_its_own() -> None:
    flights, work = SingleFlight[str, str]("test"), Work()
    callers = [asyncio.create_task(flights.run(key, work)) for key in "ab"]
    await work.began(2)
    for number, run in enumerate(work.runs):
        run.set_result(str(number))
    assert [await caller for caller in callers] == ["0", "1"]


async def test_cancelled_caller_leaves_the_run_to_the_others() -> None:
    flights, work = SingleFlight[str, str]("test"), Work()
    impatient, patient = (asyncio.create_task(flights.run("key", work)) for _ in range(2))
    await work.began(1)
    impatient.cancel()
    work.runs[0].set_result("one")
    assert await patient == "one"
    assert impatient.cancelled()


async def test_error_reaches_every_caller() -> None:
    flights, work = SingleFlight[str, str]("test"), Work()
    callers = [asyncio.create_task(flights.run("key", work)) for _ in range(2)]
    await work.began(1)
    work.runs[0].set_exception(ValueError("broken"))
    for caller in callers:
        with pytest.raises(ValueError, match="broken"):
            await caller


async def test_error_without_a_waiting_caller_is_not_reported_as_never_retrieved() -> None:
    reports: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))
    flights, work = SingleFlight[str, str]("test"), Work()
    caller = asyncio.create_task(flights.run("key", work))
    await work.began(1)
    caller.cancel()
    await asyncio.wait((caller,))
    work.runs.pop().set_exception(ValueError("broken"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    gc.collect()
    assert not reports


async def test_forgotten_run_is_not_shared_with_later_callers() -> None:
    flights, work = SingleFlight[str, str]("test"), Work()
    early = asyncio.create_task(flights.run("key", work))
    await work.began(1)
    flights.forget("key")
    late = asyncio.create_task(flights.run("key", work))
    await work.began(2)
    work.runs[0].set_result("old")
    assert await early == "old"
    work.runs[1].set_result("new")
    assert await late == "new"
