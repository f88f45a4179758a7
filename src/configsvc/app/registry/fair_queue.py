"""Whose turn it is, if there are fewer places than work: each service in turn, whatever the others have waiting."""

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """What waits, by service: round robin over services, first come first served within one."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, deque[T]] = OrderedDict()

    def add(self, service: str, item: T) -> None:
        """Waits behind what the service has waiting already."""
        self._waiting.setdefault(service, deque()).append(item)

    def next(self, may: Callable[[str], bool]) -> T | None:
        """The next of the first service in turn that may have another; that service goes to the end."""
        for service in self._waiting:
            if may(service):
                waiting = self._waiting[service]
                item = waiting.popleft()
                if waiting:
                    self._waiting.move_to_end(service)
                else:
                    del self._waiting[service]
                return item
        return None
