"""How much is sent straight to the streams of waiting clients at a time.

One change may concern thousands of watchers. After a thousand messages the event loop serves everyone else.
"""

import asyncio
from collections import deque
from typing import Protocol

# Messages in one uninterrupted round: some milliseconds.
ROUND_MESSAGES = 1_000


class Recipient(Protocol):
    """A watcher, as it is delivered to."""

    def deliver(self) -> int:
        """Sends what waits; returns how many messages that were."""
        ...


class Deliveries:
    """Rounds of messages. The recipients that get nothing in this round wait for their turn."""

    def __init__(self) -> None:
        self._due: deque[Recipient] = deque()
        self._left = 0

    def begin_round(self) -> None:
        """Allows messages to be sent at once, unless recipients wait for their turn: they are first."""
        self._left = 0 if self._due else ROUND_MESSAGES

    def may_send(self) -> bool:
        """Whether one more message may be sent in this round. Not while a recipient waits for its turn."""
        self._left -= 1
        return self._left >= 0

    def add(self, recipient: Recipient) -> None:
        """The recipient is delivered to in its turn, in a later iteration of the event loop."""
        if not self._due:
            asyncio.get_running_loop().call_soon(self._deliver_round)
        self._due.append(recipient)

    def _deliver_round(self) -> None:
        messages = 0
        while self._due and messages < ROUND_MESSAGES:
            # A recipient costs something even if nothing is sent.
            messages += max(1, self._due.popleft().deliver())
        if self._due:
            asyncio.get_running_loop().call_soon(self._deliver_round)
