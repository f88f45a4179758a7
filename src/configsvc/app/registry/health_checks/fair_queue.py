"""A queue that is fair to its groups: while a group has many items waiting, the other groups are still served."""

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """Round robin over groups; first in, first out within a group."""

    def __init__(self) -> None:
        self._groups: OrderedDict[str, deque[T]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._groups.values()))

    def put(self, group: str, item: T) -> None:
        """Adds an item at the end of its group."""
        self._groups.setdefault(group, deque()).append(item)

    def take(self, has_capacity: Callable[[str], bool]) -> T | None:
        """The next item of the first group that has capacity; that group moves to the end. None if there is none."""
        for group in self._groups:
            if has_capacity(group):
                waiting = self._groups[group]
                item = waiting.popleft()
                if waiting:
                    self._groups.move_to_end(group)
                else:
                    del self._groups[group]
                return item
        return None
