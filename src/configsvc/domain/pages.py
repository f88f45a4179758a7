"""Pages of a list, and their tokens: opaque, and bound to the query that they continue."""

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from configsvc.domain.json_values import digest
from configsvc.domain.lineage import history_changed
from configsvc.errors import InvalidInput

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PageRequest:
    """Which page a caller asks for: at most `size` items (0: the default), from `token` on (empty: the first page)."""

    size: int = 0
    token: str = ""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some items, read at one revision. `next_page_token` is empty on the last page.

    `token_after` returns the token that continues after an item: a page ends before its last item if its message is full.
    """

    items: tuple[T, ...]
    next_page_token: str
    revision: int
    token_after: Callable[[T], str]


def page_of(
    query: tuple[Any, ...],
    items: Sequence[T],
    *,
    token: str,
    more: bool,
    revision: int,
    history: str,
    cursor: Callable[[T], tuple[Any, ...]],
) -> Page[T]:
    """The page of a query that was read from `token`, at a revision of a history of the log.

    `more`: there are items after the last one; `cursor` returns the position of an item in the query's order.

    Raises:
        RevisionOutOfRange: the token is of another history, reason `HISTORY_CHANGED`.
    """
    if token and _decoded(token)[1] != history:
        raise history_changed(history, 0, revision)

    def token_after(item: T) -> str:
        return page_token(query, history, cursor(item))

    return Page(tuple(items), token_after(items[-1]) if more else "", revision, token_after)


def page_of_all(
    query: tuple[Any, ...],
    items: Sequence[T],
    page: PageRequest,
    *,
    revision: int,
    history: str,
    name: Callable[[T], str],
) -> Page[T]:
    """One page of a list that is whole in memory, in the order of `name`. `page.size` 0: all that follow the token."""
    cursor = page_cursor(page.token, query, str)
    following = [item for item in items if cursor is None or name(item) > cursor[0]]
    size = page.size or len(following)
    return page_of(
        query,
        following[:size],
        token=page.token,
        more=len(following) > size,
        revision=revision,
        history=history,
        cursor=lambda item: (name(item),),
    )


def page_token(query: tuple[Any, ...], history: str, cursor: tuple[Any, ...]) -> str:
    """The token that continues `query` after `cursor`, in a history of the log."""
    # UTF-8, because JSON's escapes of a key would make the token three times as long.
    text = json.dumps([digest(*query)[:16], history, *cursor], ensure_ascii=False, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode("utf-8", "surrogatepass")).decode().rstrip("=")


def page_cursor(token: str, query: tuple[Any, ...], *types: type) -> tuple[Any, ...] | None:
    """The cursor in a token; None for the first page. `page_of` checks its history, which is known after the read.

    Raises:
        InvalidInput: this query gave no such token.
    """
    if not token:
        return None
    decoded = _decoded(token)
    if (
        len(decoded) != len(types) + 2
        or decoded[0] != digest(*query)[:16]
        or any(type(item) is not kind for item, kind in zip(decoded[1:], (str, *types), strict=True))
    ):
        raise InvalidInput.of("page_token", "must be the next_page_token of the same query", "BAD_PAGE_TOKEN")
    return tuple(decoded[2:])


def _decoded(token: str) -> list[Any]:
    """The members of a token; an empty list if the text is not a token."""
    try:
        text = base64.b64decode(token.encode() + b"=" * (-len(token) % 4), altchars=b"-_", validate=True)
        decoded = json.loads(text)
    except (binascii.Error, ValueError):
        return []
    return decoded if isinstance(decoded, list) else []
