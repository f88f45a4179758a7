"""A replica whose wall clock a test can move: `configsvc serve` with a clock that reads its offset from a file.

Run as `moved_replica.py OFFSET_FILE ADDRESS`; the file holds seconds, as text.
"""

import sys
from datetime import datetime, timedelta
from pathlib import Path

import uvloop

from configsvc.clock import SystemClock
from configsvc.process import serve
from configsvc.settings import load


class MovedClock(SystemClock):
    """The machine's clock with an offset on the wall time. Monotonic time is not changed."""

    def __init__(self, offset: Path) -> None:
        self._offset = offset

    def now(self) -> datetime:
        """The wall time plus the offset."""
        return super().now() + timedelta(seconds=float(self._offset.read_text()))


if __name__ == "__main__":
    uvloop.run(serve(load(), [sys.argv[2]], clock=MovedClock(Path(sys.argv[1]))))
