"""What fits into one message: pages end early, and single items leave out what can be read elsewhere.

No answer is larger than stock clients take (`domain/sizes.py`). An item is tried with less and less detail until it
fits; a list takes items until the next one does not fit.
"""

from collections.abc import Callable, Iterable
from enum import IntEnum
from typing import TypeVar

from google.protobuf.message import Message

from configsvc.domain.pages import Page
from configsvc.domain.sizes import ANSWER_BYTES

T = TypeVar("T")
M = TypeVar("M", bound=Message)

# Tag and length before an item in a list, at most.
ITEM_OVERHEAD_BYTES = 6


class Detail(IntEnum):
    """How much of an item is told, the most first."""

    FULL = 0
    # What was before, or how something came about, is left out: the version before has it, or the item asked for alone.
    WITHOUT_BEFORE = 1
    # So is what is now. Written resources always fit; this is for those that were stored before there was a limit.
    IDENTITY = 2

    @property
    def includes_before(self) -> bool:
        return self is Detail.FULL

    @property
    def includes_after(self) -> bool:
        return self is not Detail.IDENTITY


class MessageBudget:
    """What is left of one message."""

    def __init__(self, max_bytes: int = ANSWER_BYTES) -> None:
        self.left_bytes = max_bytes

    def take(self, message: Message) -> bool:
        """Takes room for one more item of a list; False where it does not fit, and then takes nothing."""
        size = message.ByteSize() + ITEM_OVERHEAD_BYTES
        if size > self.left_bytes:
            return False
        self.left_bytes -= size
        return True

    def fill(self, make: Callable[[T, Detail], M], items: Iterable[T]) -> list[M]:
        """The messages of the first items, as many as fit. Only the first is told in less detail to make it fit: another
        page has more room for the others.
        """
        taken: list[M] = []
        for item in items:
            message = make(item, Detail.FULL) if taken else self._fitting(make, item)
            if not self.take(message):
                break
            taken.append(message)
        return taken

    def _fitting(self, make: Callable[[T, Detail], M], item: T) -> M:
        for detail in Detail:
            message = make(item, detail)
            if message.ByteSize() + ITEM_OVERHEAD_BYTES <= self.left_bytes:
                break
        return message


def fit_item(make: Callable[[T, Detail], M], item: T, max_bytes: int = ANSWER_BYTES) -> M:
    """An item that is a message by itself, in as much detail as fits."""
    return MessageBudget(max_bytes)._fitting(make, item)


def fit_page(page: Page[T], make: Callable[[T, Detail], M]) -> tuple[list[M], str]:
    """As much of a page as fits into one message, and the token that continues after it."""
    items = MessageBudget().fill(make, page.items)
    is_cut = len(items) < len(page.items)
    return items, page.token_after(page.items[len(items) - 1]) if is_cut else page.next_page_token
