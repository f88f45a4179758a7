"""A breaker: after some failures in a row nobody asks a backend any more, but for one trial at a time.

After Nygard, "Release It!", 2007: closed, open, half open.
"""

import random

from configsvc.clock import Clock

SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 10.0


class CircuitBreaker:
    """Ask `allows_call` before each call, and tell how it went. `failures` in a row open it."""

    def __init__(self, clock: Clock, failures: int) -> None:
        self._clock = clock
        self._max_failures = failures
        self._failures = 0
        self._pause = SHORTEST_PAUSE_SECONDS
        self._next_trial = 0.0

    @property
    def is_open(self) -> bool:
        """Whether calls are held back."""
        return self._failures >= self._max_failures

    def allows_call(self) -> bool:
        """Whether to make a call now. While it is open one call may go after each pause, as a trial."""
        if not self.is_open:
            return True
        now = self._clock.monotonic()
        if now < self._next_trial:
            return False
        self._wait(now)
        return True

    def record_success(self) -> bool:
        """A call went well. Returns whether that closed it."""
        closed = self.is_open
        self._failures = 0
        self._pause = SHORTEST_PAUSE_SECONDS
        return closed

    def record_failure(self) -> bool:
        """A call failed. Returns whether that opened it."""
        was_open = self.is_open
        self._failures += 1
        if was_open or not self.is_open:
            return False
        self._wait(self._clock.monotonic())
        return True

    def _wait(self, now: float) -> None:
        # Jitter, so that a fleet does not come back at once.
        self._next_trial = now + random.uniform(self._pause / 2, self._pause)
        self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)
