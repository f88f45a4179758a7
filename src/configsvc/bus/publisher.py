"""Where the change log leaves to. Adapter: `kafka`."""

from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

from configsvc.domain.records import Change


class Publisher(Protocol):
    """Publishes changes as events. One caller at a time."""

    async def publish(self, changes: Sequence[Change]) -> None:
        """Returns when every event is acknowledged, each key's in the order given.

        Raises:
            Unavailable: not all of them are; some may be. Publish all of them again.
        """
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
