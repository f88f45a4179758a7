"""Page tokens: opaque, and bound to the query that they continue."""

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
class Page(Generic[T]):
    """Some items, read at one revision. `next_page_token` is empty on the last page.

    `token_after` is the token that continues after an item: a page can end before its last item, where its message is
    full.
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
    """The page of a query, which was read by a token, at a revision of a history of the log.

    `more`: it goes on after the last item; `cursor` says where an item stands.

    Raises:
        RevisionOutOfRange: the token is of another history, reason `HISTORY_CHANGED`.
    """
    if token and _decoded(token)[1] != history:
        raise history_changed(history, 0, revision)

    def token_after(item: T) -> str:
        return page_token(query, history, cursor(item))

    return Page(tuple(items), token_after(items[-1]) if more else "", revision, token_after)


def page_token(query: tuple[Any, ...], history: str, cursor: tuple[Any, ...]) -> str:
    """The token that continues `query` after `cursor`, in a history of the log."""
    # As UTF-8, since a key's escapes would make the token three times as long.
    text = json.dumps([digest(*query)[:16], history, *cursor], ensure_ascii=False, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode("utf-8", "surrogatepass")).decode().rstrip("=")


def page_cursor(token: str, query: tuple[Any, ...], *types: type) -> tuple[Any, ...] | None:
    """The cursor in a token; None for the first page. Its history is looked at once the page is read.

    Raises:
        InvalidInput: the token is not one that this query gave.
    """
    if not token:
        return None
    found = _decoded(token)
    if (
        len(found) != len(types) + 2
        or found[0] != digest(*query)[:16]
        or any(type(item) is not kind for item, kind in zip(found[1:], (str, *types), strict=True))
    ):
        raise InvalidInput.of("page_token", "must be the next_page_token of the same query", "BAD_PAGE_TOKEN")
    return tuple(found[2:])


def _decoded(token: str) -> list[Any]:
    """What a token holds; nothing where it is none."""
    try:
        text = base64.b64decode(token.encode() + b"=" * (-len(token) % 4), altchars=b"-_", validate=True)
        found = json.loads(text)
    except (binascii.Error, ValueError):
        return []
    return found if isinstance(found, list) else []
