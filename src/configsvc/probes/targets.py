"""A limit on the checks of one target, however many instances are registered there: this service must not be an amplifier."""

from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from configsvc.clock import Clock, SystemClock
from configsvc.probes.port import ProbeBusyError

# Checks of one address and port at the same time. Each holds its slot for at least this long: that makes ten a second.
CHECKS_PER_TARGET, SLOT_SECONDS = 4, 0.4

Target = tuple[str, int]


class TargetLimiter:
    """The checks under way at each address and port."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._running: Counter[Target] = Counter()
        # When the slots of checks that ended early become free.
        self._held: defaultdict[Target, deque[float]] = defaultdict(deque)

    @asynccontextmanager
    async def slot(self, address: str, port: int) -> AsyncIterator[None]:
        """A slot for one check. Raises `ProbeBusyError` at once if none is free."""
        target, now = (address, port), self._clock.monotonic()
        held = self._held[target]
        while held and held[0] <= now:
            held.popleft()
        if self._running[target] + len(held) >= CHECKS_PER_TARGET:
            raise ProbeBusyError
        self._running[target] += 1
        try:
            yield
        finally:
            self._running[target] -= 1
            if self._clock.monotonic() < now + SLOT_SECONDS:
                held.append(now + SLOT_SECONDS)
            self._remove_idle()

    def _remove_idle(self) -> None:
        """Removes targets without slots in use, so that memory is bounded by the rate of checks."""
        now = self._clock.monotonic()
        for target in [t for t, held in self._held.items() if not self._running[t] and not (held and held[-1] > now)]:
            del self._held[target]
            del self._running[target]
