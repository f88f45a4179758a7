"""Page tokens continue the query that gave them, and no other."""

import base64
import json
from typing import Any

import pytest

from configsvc.domain.pages import PageRequest, page_cursor, page_of_all, page_token
from configsvc.errors import InvalidInput, RevisionOutOfRange

QUERY = ("list", "production", None)
HISTORY = "h1"


def encoded(content: Any) -> str:
    text = content if isinstance(content, str) else json.dumps(content)
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decoded(token: str) -> list[Any]:
    content: list[Any] = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    return content


def test_cursor_comes_back_from_its_token() -> None:
    token = page_token(QUERY, HISTORY, ("ключ/a", 7))
    assert page_cursor(token, QUERY, str, int) == ("ключ/a", 7)
    assert page_cursor("", QUERY, str, int) is None


TOKEN = decoded(page_token(QUERY, HISTORY, ("a", 7)))


@pytest.mark.parametrize(
    "token",
    [
        page_token(("list", "staging", None), HISTORY, ("a", 7)),
        encoded(TOKEN[:-1]),
        encoded([*TOKEN, 8]),
        encoded([*TOKEN[:-1], "7"]),
        encoded([*TOKEN[:-1], True]),
        encoded([TOKEN[0], 1, *TOKEN[2:]]),
        encoded({"a": 1}),
        encoded("null"),
        encoded("not JSON"),
        "!",
        "ä",
    ],
    ids=[
        "of another query", "a member missing", "a member more", "a text for a number", "a boolean for a number",
        "a number for the history", "an object", "null", "no JSON", "no base64", "no ASCII",
    ],
)  # fmt: skip
def test_token_that_the_query_did_not_give_is_refused(token: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        page_cursor(token, QUERY, str, int)
    assert refused.value.reason == "BAD_PAGE_TOKEN"


def page(token: str, size: int = 2, history: str = HISTORY) -> Any:
    return page_of_all(
        QUERY, ["a", "b", "c", "d", "e"], PageRequest(size, token), revision=3, history=history, name=str
    )


def test_pages_of_a_list_in_memory_have_each_item_once() -> None:
    items, token = [], ""
    for expected in (("a", "b"), ("c", "d"), ("e",)):
        found = page(token)
        assert (found.items, found.revision) == (expected, 3)
        items += found.items
        token = found.next_page_token
    assert token == ""
    assert page("", size=0).items == tuple(items)
    assert page("", size=5).next_page_token == ""


def test_page_can_end_before_its_last_item() -> None:
    assert page(page("", size=4).token_after("a"), size=9).items == ("b", "c", "d", "e")


def test_token_of_another_history_is_out_of_range() -> None:
    with pytest.raises(RevisionOutOfRange) as refused:
        page(page("").next_page_token, history="h2")
    assert refused.value.reason == "HISTORY_CHANGED"
