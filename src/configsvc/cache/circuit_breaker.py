"""A circuit breaker: after some failures in a row, a backend gets no calls except one trial at a time.

Nygard, "Release It!", 2007: closed, open, half open.
"""

from configsvc.backoff import Backoff
from configsvc.clock import Clock

# Between two trials.
SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 10.0


class CircuitBreaker:
    """Ask `allows_call` before each call, and record its result. So many `failures` in a row open the breaker."""

    def __init__(self, clock: Clock, failures: int) -> None:
        self._clock = clock
        self._max_failures = failures
        self._failures = 0
        self._backoff = Backoff(SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
        self._next_trial = 0.0

    @property
    def is_open(self) -> bool:
        """Whether calls are refused."""
        return self._failures >= self._max_failures

    def allows_call(self) -> bool:
        """Whether to make a call now. While the breaker is open, one call is allowed after each pause, as a trial."""
        if not self.is_open:
            return True
        now = self._clock.monotonic()
        if now < self._next_trial:
            return False
        self._next_trial = now + self._backoff.next()
        return True

    def record_success(self) -> bool:
        """A call succeeded. Returns whether that closed the breaker."""
        was_open = self.is_open
        self._failures = 0
        self._backoff.reset()
        return was_open

    def record_failure(self) -> bool:
        """A call failed. Returns whether that opened the breaker."""
        was_open = self.is_open
        self._failures += 1
        if was_open or not self.is_open:
            return False
        self._next_trial = self._clock.monotonic() + self._backoff.next()
        return True
