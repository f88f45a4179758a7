"""What fits into one message.

No answer is larger than what stock clients receive (`domain/sizes.py`). A list ends before the first item that does not
fit, and continues on the next page. A single item is tried with less and less detail until it fits: what it leaves out
can be read elsewhere.
"""

from collections.abc import Callable, Iterable
from enum import IntEnum
from typing import TypeVar

from google.protobuf.message import Message

from configsvc.domain.pages import Page
from configsvc.domain.sizes import ANSWER_BYTES

T = TypeVar("T")
M = TypeVar("M", bound=Message)

# Tag and length before an item of a list, at most.
ITEM_OVERHEAD_BYTES = 6


class Detail(IntEnum):
    """How much of an item a message has, the most first."""

    FULL = 0
    # Without the state before a change, or the explanation of an evaluation: the version before has the one, and a call
    # for this item alone returns the other.
    WITHOUT_BEFORE = 1
    # Without the state after a change, too. This is for resources that were stored before there was a limit: every
    # resource that can be written fits.
    IDENTITY = 2

    @property
    def includes_before(self) -> bool:
        return self is Detail.FULL

    @property
    def includes_after(self) -> bool:
        return self is not Detail.IDENTITY


class MessageBudget:
    """The bytes that are left in one message."""

    def __init__(self, max_bytes: int = ANSWER_BYTES) -> None:
        self.remaining_bytes = max_bytes

    def reserve(self, item: Message) -> bool:
        """Reserves the bytes of one more item of a list. False if the item does not fit; then nothing is reserved."""
        size = item.ByteSize() + ITEM_OVERHEAD_BYTES
        if size > self.remaining_bytes:
            return False
        self.remaining_bytes -= size
        return True

    def fill(self, to_message: Callable[[T, Detail], M], items: Iterable[T]) -> list[M]:
        """The messages of the first items, as many as fit.

        Only the first item may lose detail to fit. The others fit in full on another page.
        """
        messages: list[M] = []
        for item in items:
            message = to_message(item, Detail.FULL) if messages else self.fit(to_message, item)
            if not self.reserve(message):
                break
            messages.append(message)
        return messages

    def fit(self, to_message: Callable[[T, Detail], M], item: T) -> M:
        """The message of an item, in as much detail as fits; in the least detail if nothing fits. Reserves nothing."""
        for detail in Detail:
            message = to_message(item, detail)
            if message.ByteSize() + ITEM_OVERHEAD_BYTES <= self.remaining_bytes:
                break
        return message


def fit_item(to_message: Callable[[T, Detail], M], item: T, max_bytes: int = ANSWER_BYTES) -> M:
    """The message of an item that is alone in its answer, in as much detail as fits."""
    return MessageBudget(max_bytes).fit(to_message, item)


def fit_page(page: Page[T], to_message: Callable[[T, Detail], M]) -> tuple[list[M], str]:
    """The first items of a page, as many as fit into one message, and the token of the page that continues after them."""
    items = MessageBudget().fill(to_message, page.items)
    is_cut = len(items) < len(page.items)
    return items, page.token_after(page.items[len(items) - 1]) if is_cut else page.next_page_token
