"""How replicas tell each other that the log has grown, and how its changes leave as events.

Adapters of `Bus`: `local`, `notify`, `kafka.bus`; of `Publisher`: `kafka.publisher`.

Nobody trusts the bus for correctness. A message says "the log reached N", no more; it may be lost, doubled, late or
out of order, and that costs latency, never data, since every reader polls the log too.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from configsvc.domain.events import Delivery
from configsvc.domain.records import Change
from configsvc.errors import Unavailable


class Bus(Protocol):
    """Wake-ups between replicas."""

    @property
    def name(self) -> str:
        """What it is, for people: `local`, `kafka`."""
        ...

    def announce(self, changes: Sequence[Change]) -> None:
        """Says that these changes, in order, are committed. Never waits and never raises for the backend's sake."""
        ...

    def subscribe(self) -> AsyncIterator[int]:
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


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a batch.

    `deliveries`: the events that are settled, in the order of the changes: acknowledged, or refused for good in every
    form. `problem`: why it ended before all that was begun is settled. Without a problem there is at least one delivery.
    """

    deliveries: Sequence[Delivery]
    problem: Unavailable | None = None


class Publisher(Protocol):
    """Publishes changes as events. One caller at a time."""

    async def publish(self, changes: Sequence[Change]) -> Receipt:
        """Publishes the first of the changes, as many as make one batch: at least one, bounded in bytes.

        It goes on as long as acknowledgements come in, however slowly. Each key's events are published in the order
        given. Changes that the receipt does not name may have been published too: publish them again, before any later
        change of their keys. When this has returned or was cancelled, nothing of the batch is sent any more.

        An event that the backend will never take is published with less in it: see `domain.events.EventForm`.

        Never raises for the backend's sake.
        """
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
