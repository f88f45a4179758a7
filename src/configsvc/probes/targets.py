"""How much one target is looked at, whoever has registered how many instances there: this service is no amplifier."""

from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from configsvc.clock import Clock, SystemClock
from configsvc.probes.port import ProbeBusyError

# Looks at one address and port at the same time, each of which holds its place for so long at least: ten a second.
TOGETHER, HOLD_SECONDS = 4, 0.4


class Targets:
    """The looks at each address and port."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._looking: Counter[tuple[str, int]] = Counter()
        # When places become free again of looks that were quicker.
        self._held: defaultdict[tuple[str, int], deque[float]] = defaultdict(deque)

    @asynccontextmanager
    async def visited(self, address: str, port: int) -> AsyncIterator[None]:
        """One look. Raises `ProbeBusyError` at once if there is no place."""
        target, now = (address, port), self._clock.monotonic()
        held = self._held[target]
        while held and held[0] <= now:
            held.popleft()
        if self._looking[target] + len(held) >= TOGETHER:
            raise ProbeBusyError
        self._looking[target] += 1
        try:
            yield
        finally:
            self._looking[target] -= 1
            if self._clock.monotonic() < now + HOLD_SECONDS:
                held.append(now + HOLD_SECONDS)
            self._forget()

    def _forget(self) -> None:
        """Targets with neither looks nor places that are held, so that what is remembered is bounded by the rate."""
        now = self._clock.monotonic()
        for target in [t for t, held in self._held.items() if not self._looking[t] and not (held and held[-1] > now)]:
            del self._held[target]
            del self._looking[target]
