"""How replicas tell each other that the log has grown. Adapters: `local`, `kafka`.

Nobody trusts the bus for correctness. A message says "the log reached N", no more; it may be lost, doubled, late or
out of order, and that costs latency, never data, since every reader polls the log too.
"""

from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Protocol, Self

from configsvc.domain.records import Change


class Bus(Protocol):
    """Wake-ups between replicas."""

    @property
    def name(self) -> str:
        """What it is, for people: `local`, `kafka`."""
        ...

    def announce(self, changes: Sequence[Change]) -> None:
        """Says that these changes, in order, are committed. Never waits and never raises for the backend's sake."""
        ...

    def reached(self) -> AsyncIterator[int]:
        """Revisions that the log is said to have reached, by any replica, from now on.

        Several are merged into the highest where the caller is slow. Ends when the bus is closed.
        """
        ...

    async def ping(self) -> None:
        """Returns where the backend answers; raises `Unavailable` where it does not."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
