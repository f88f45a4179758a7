"""Time, passed in, so that tests turn the hands themselves."""

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Two readings that must not be mixed up, and a way to wait."""

    def now(self) -> datetime:
        """Wall time, aware, in UTC: for people and for records. It may jump."""
        ...

    def monotonic(self) -> float:
        """Seconds from some fixed point; never goes back: for leases, time-outs and intervals."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Returns when `monotonic()` has advanced by at least `seconds`."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """Wall time in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """`time.monotonic()`."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """`asyncio.sleep`."""
        await asyncio.sleep(seconds)
