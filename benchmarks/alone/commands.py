"""The load client's commands, for work that is a coroutine of this process."""

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from benchmarks.measure import run

# One piece of work, as the worker with this number.
Work = Callable[[int], Awaitable[object]]
Opened = Callable[[dict[str, Any]], AbstractAsyncContextManager[Work]]


def main(opened: Opened) -> None:
    """Opens what the first line of the input describes, and then does a round for each line."""
    run(_obey(opened))


async def _obey(opened: Opened) -> None:
    config = json.loads(sys.stdin.readline())
    async with opened(config) as work:
        _say("ready")
        while line := await asyncio.to_thread(sys.stdin.readline):
            _say(json.dumps(await _round(work, config["in_flight"], json.loads(line)["seconds"])))


async def _round(work: Work, in_flight: int, seconds: float) -> dict[str, Any]:
    took: list[float] = []
    began = time.perf_counter()

    async def worker(number: int) -> None:
        while (started := time.perf_counter()) < began + seconds:
            await work(number)
            took.append(time.perf_counter() - started)

    await asyncio.gather(*map(worker, range(in_flight)))
    return {
        **{"answers": len(took), "errors": 0, "seconds": time.perf_counter() - began, "busy": 0.0},
        "p50": statistics.median(took) * 1e6,
    }


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
