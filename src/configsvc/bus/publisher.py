"""Where the change log leaves to. Adapter: `kafka_publisher`."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from configsvc.domain.events import Delivery
from configsvc.domain.records import Change
from configsvc.errors import Unavailable


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

        An event that the backend will never take is published with less in it: see `domain.events.Form`.

        Never raises for the backend's sake.
        """
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
