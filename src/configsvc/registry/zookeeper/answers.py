"""The answers that are waited for, each for a bounded time.

A server answers the calls of a session in their order. So a call that waits behind others is overdue only if no answer at
all comes: if thousands of nodes are read on a busy machine, each answer takes long, but the server is not silent.

One task looks after the deadlines of all of them. A timer for each would cost more than the rest of a call.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from configsvc.clock import Clock
from configsvc.errors import Unavailable

# A call fails if no call is answered for so long, although ZooKeeper may still do what it was asked.
ANSWER_SECONDS = 5.0
# How often the deadlines are checked.
CHECK_SECONDS = 0.5


class PendingAnswers:
    """Futures that get an error if nothing else settles them in time, while `run` runs."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # When each was asked for, in that order.
        self._asked_at: dict[asyncio.Future[Any], float] = {}
        self._heard_at = 0.0

    def heard(self) -> None:
        """The server has answered something."""
        self._heard_at = self._clock.monotonic()

    @contextmanager
    def expected(self) -> Iterator["asyncio.Future[Any]"]:
        """A future for one answer. It raises `Unavailable` if nothing is heard for `ANSWER_SECONDS`."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._asked_at[answer] = self._clock.monotonic()
        try:
            yield answer
        finally:
            del self._asked_at[answer]

    async def run(self) -> None:
        """Ends overdue waits, for ever."""
        while True:
            await self._clock.sleep(CHECK_SECONDS)
            now = self._clock.monotonic()
            # If the event loop was held up, the answers that came meanwhile were handed over before this goes on.
            for answer, asked_at in tuple(self._asked_at.items()):
                if max(asked_at, self._heard_at) + ANSWER_SECONDS > now:
                    break
                if not answer.done():
                    text = f"ZooKeeper does not answer: nothing came within {ANSWER_SECONDS:g} s"
                    answer.set_exception(Unavailable(text, "REGISTRY_UNAVAILABLE"))
