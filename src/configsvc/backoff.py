"""Jittered exponential back-off: the pause before each retry."""

import random


class Backoff:
    """Pauses that double with each failure, up to `longest_seconds`.

    Each pause is random between half of its bound and all of it ("equal jitter"; M. Brooker, Exponential Backoff And
    Jitter, AWS Architecture Blog, 2015), so that replicas that failed together don't retry together.
    """

    def __init__(self, shortest_seconds: float, longest_seconds: float) -> None:
        self._shortest_seconds = shortest_seconds
        self._longest_seconds = longest_seconds
        self._bound_seconds = shortest_seconds

    def next(self) -> float:
        """The pause before the next retry, in seconds."""
        bound = self._bound_seconds
        self._bound_seconds = min(2 * bound, self._longest_seconds)
        return random.uniform(bound / 2, bound)

    def reset(self) -> None:
        """After a success: the next pause is the shortest again."""
        self._bound_seconds = self._shortest_seconds
