"""The answers that are waited for, each for a bounded time.

One task looks after the deadlines of all of them. A timer for each would cost more than the rest of a call.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from configsvc.clock import Clock
from configsvc.errors import Unavailable

# A call without an answer after this fails, although ZooKeeper may still do what it was asked.
ANSWER_SECONDS = 5.0
# How often the deadlines are checked.
CHECK_SECONDS = 0.5


class PendingAnswers:
    """Futures that get an error if nothing else settles them in time, while `run` runs."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # In the order of their deadlines.
        self._deadlines: dict[asyncio.Future[Any], float] = {}

    @contextmanager
    def expected(self) -> Iterator["asyncio.Future[Any]"]:
        """A future for one answer. It raises `Unavailable` if it has no result after `ANSWER_SECONDS`."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._deadlines[answer] = self._clock.monotonic() + ANSWER_SECONDS
        try:
            yield answer
        finally:
            del self._deadlines[answer]

    async def run(self) -> None:
        """Ends overdue waits, for ever."""
        while True:
            await self._clock.sleep(CHECK_SECONDS)
            now = self._clock.monotonic()
            # If the event loop was held up, the answers that came meanwhile were handed over before this goes on.
            for answer, deadline in tuple(self._deadlines.items()):
                if deadline > now:
                    break
                if not answer.done():
                    text = f"ZooKeeper does not answer: nothing came within {ANSWER_SECONDS:g} s"
                    answer.set_exception(Unavailable(text, "REGISTRY_UNAVAILABLE"))
