"""Work on many items, some at a time.

A task for each of ten thousand nodes would hold up the event loop while they are made, and would go on after the first error.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# More than the calls that a session has under way, so that there is always a next one.
CONCURRENT_ITEMS = 128


async def work_on_each(work: Callable[[Item], Awaitable[Result]], items: Sequence[Item]) -> list[Result]:
    """The results, in the order of the items. The first error ends the work on all of them, and is raised."""
    results: dict[int, Result] = {}
    waiting = iter(enumerate(items))

    async def work_on_next() -> None:
        for number, item in waiting:
            results[number] = await work(item)

    try:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(min(CONCURRENT_ITEMS, len(items))):
                tasks.create_task(work_on_next())
    except ExceptionGroup as group:
        raise group.exceptions[0] from None
    return [results[number] for number in range(len(items))]
