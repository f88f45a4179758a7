"""What `storage/port` promises of pages of records: filters, order and paging."""

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from configsvc.domain.records import Action, Kind, Put, Ref
from configsvc.storage.port import RecordQuery, Storage
from tests.conformance.storage.writing import batch, config, create, put, remove

PAGE = RecordQuery(Kind.CONFIG, "test", limit=1_000)

# Characters at the borders of the order by code point: ASCII, two bytes, before and after the surrogates, the last one.
BORDERS = [
    "a",
    "b",
    "~",
    "\x7f",
    "\x80",
    "é",
    "\u07ff",
    "\u0800",
    "\ud7ff",
    "\ue000",
    "\uffff",
    "\U00010000",
    "\U0010fffe",
    "\U0010ffff",
]


async def names(storage: Storage, query: RecordQuery) -> list[tuple[str, str]]:
    """(key, service) of the page's records."""
    return [(record.ref.key, record.ref.service) for record in (await storage.page(query)).records]


async def fill(storage: Storage, *refs: Ref) -> None:
    await storage.write(batch(*(Put(ref, {"value": ref.key}, Action.CREATE) for ref in refs)))


async def test_page_has_the_live_records_of_one_kind_and_environment_in_order(storage: Storage) -> None:
    await fill(
        storage, config("b"), config("a", "z"), config("a"), config("c"), config("x", environment="other"),
        Ref(Kind.FLAG, "test", "", "f"),
    )  # fmt: skip
    await storage.write(remove(config("c")))
    page = await storage.page(PAGE)
    assert [(r.ref.key, r.ref.service) for r in page.records] == [("a", ""), ("a", "z"), ("b", "")]
    assert (page.revision, page.more, page.history) == (2, False, (await storage.state()).history)


async def test_services_and_keys_select_records(storage: Storage) -> None:
    await fill(storage, *(config(key, service) for key in "abc" for service in ("", "s", "t")))
    assert await names(storage, replace(PAGE, services=("s",))) == [("a", "s"), ("b", "s"), ("c", "s")]
    assert await names(storage, replace(PAGE, services=("", "t"), keys=("c", "a", "missing"))) == [
        ("a", ""), ("a", "t"), ("c", ""), ("c", "t"),
    ]  # fmt: skip
    assert await names(storage, replace(PAGE, services=())) == []
    assert await names(storage, replace(PAGE, keys=())) == []


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 6, 7])
async def test_pages_by_after_return_every_record_once(storage: Storage, limit: int) -> None:
    await fill(storage, *(config(key, service) for key in "abc" for service in ("", "s")))
    query, seen = replace(PAGE, limit=limit), []
    while True:
        page = await storage.page(query)
        assert len(page.records) <= limit
        seen += [(record.ref.key, record.ref.service) for record in page.records]
        if not page.more:
            break
        query = replace(query, after=seen[-1])
    assert seen == [(key, service) for key in "abc" for service in ("", "s")]


async def test_order_is_by_code_point(storage: Storage) -> None:
    await fill(storage, *(config(key) for key in reversed(BORDERS)))
    assert [key for key, _ in await names(storage, PAGE)] == sorted(BORDERS)


@pytest.mark.parametrize("prefix", [*BORDERS, "a\U0010ffff", "\U0010ffff\U0010ffff", "\ud7ff\U0010ffff", "%", "_", "A"])
async def test_prefix_selects_keys_that_start_with_it(storage: Storage, prefix: str) -> None:
    keys = {first + rest for first in BORDERS for rest in ("", "a", "\ud7ff", "\ue000", "\U0010ffff")}
    await fill(storage, *(config(key) for key in keys))
    expected = sorted(key for key in keys if key.startswith(prefix))
    assert [key for key, _ in await names(storage, replace(PAGE, prefix=prefix))] == expected


TEXTS = st.text(st.sampled_from([*BORDERS, "A", "%", "_", "\\", "*"]), min_size=1, max_size=3)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(keys=st.sets(TEXTS, min_size=1, max_size=8), prefix=TEXTS, after=TEXTS)
async def test_prefix_and_after_match_the_model(storage: Storage, keys: set[str], prefix: str, after: str) -> None:
    # All examples share one database.
    existing = {record.ref for record in (await storage.page(PAGE)).records}
    await storage.write(batch(*(Put(config(key), {}, Action.UPDATE) for key in keys)))
    expected = sorted(key for key in {ref.key for ref in existing} | keys if key.startswith(prefix) and key > after)
    assert [key for key, _ in await names(storage, replace(PAGE, prefix=prefix, after=(after, "")))] == expected


async def test_re_created_record_is_listed_again(storage: Storage) -> None:
    await storage.write(create(config("a")))
    await storage.write(remove(config("a")))
    await storage.write(put(config("a"), 2))
    (record,) = (await storage.page(PAGE)).records
    assert (record.version, record.body) == (3, {"value": 2})
