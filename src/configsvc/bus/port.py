"""How replicas tell each other that the log has grown, and how its changes are published as events.

Adapters of `Bus`: `local`, `postgres`, `kafka.bus`. Adapter of `Publisher`: `kafka.publisher`.

Correctness does not depend on the bus. A message says no more than "the log has reached revision N". It may be lost,
duplicated, late or out of order. That costs latency but no data, because every reader of the log polls it too.
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
        """The backend's name for operators, one word: `local`, `postgresql`, `kafka`."""
        ...

    def announce(self, changes: Sequence[Change]) -> None:
        """Announces that these changes, in order, are committed. Never waits, and never raises if the backend fails."""
        ...

    def subscribe(self) -> AsyncIterator[int]:
        """The revisions that any replica announces from this call on, not only from the first step of the iterator.

        If the caller is slow, several revisions are merged into the highest. Ends when the bus is closed.
        """
        ...

    async def ping(self) -> None:
        """Raises `Unavailable` if the backend does not answer."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class Receipt:
    """The result of publishing a batch.

    `deliveries`: the settled events, in the order of the changes. An event is settled if it was acknowledged, or refused
    permanently in every form. `problem`: why some events of the batch are not settled. Without a problem there is at
    least one delivery.
    """

    deliveries: Sequence[Delivery]
    problem: Unavailable | None = None


class Publisher(Protocol):
    """Publishes changes as events. One caller at a time."""

    async def publish(self, changes: Sequence[Change]) -> Receipt:
        """Publishes the first of the changes, as many as make one batch: at least one, bounded in bytes.

        It continues as long as acknowledgements arrive, however slowly. The events of one key are published in the given
        order. Changes that are not in the receipt may have been published too: publish them again, before any later
        change of their keys. After this has returned or was cancelled, no event of the batch is sent any more.

        An event that the backend refuses permanently is published in a smaller form: see `domain.events.EventForm`.

        Never raises if the backend fails.
        """
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
