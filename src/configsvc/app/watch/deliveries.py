"""Sends changes straight to the streams of waiting clients, some hundred at a time.

One change may concern thousands of watchers. Between two slices the event loop serves everyone else.
"""

import asyncio
from collections import deque

from configsvc.app.watch.watcher import Watcher

# Messages in one uninterrupted round. A thousand take between one and two milliseconds.
SLICE_MESSAGES = 500


class Deliveries:
    """The watchers that have something to send, in the order in which they got it."""

    def __init__(self) -> None:
        self._due: deque[Watcher] = deque()
        self._is_scheduled = False

    def add(self, watcher: Watcher) -> None:
        """The watcher is delivered to in its turn, once `start` is called."""
        self._due.append(watcher)

    def start(self) -> None:
        """Delivers now, if nobody waits for a turn already. The rest follows in later iterations of the event loop."""
        if self._due and not self._is_scheduled:
            self._deliver_slice()

    def _deliver_slice(self) -> None:
        messages = 0
        while self._due and messages < SLICE_MESSAGES:
            # A watcher costs something even if nothing is sent.
            messages += max(1, self._due.popleft().deliver())
        self._is_scheduled = bool(self._due)
        if self._is_scheduled:
            asyncio.get_running_loop().call_soon(self._deliver_slice)
