"""What `storage/port` promises of the change history: search and versions."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from configsvc.domain.records import Action, Kind, Put, Ref
from configsvc.storage.port import ChangeQuery, Storage, VersionRange
from tests.conformance.storage.writing import NOON, StorageFactory, author, batch, config, put, remove

ALL = ChangeQuery(limit=100)
FLAG = Ref(Kind.FLAG, "test", "", "a")


async def fill(storage: Storage) -> None:
    """Revision N is written N minutes after noon; revision 5 has two changes."""
    writes = [
        put(config("a"), 1, by=author(actor="ann", reason="100% _sure_", minutes=1)),
        put(config("a", "svc"), 1, by=author(actor="bob", reason="because", minutes=2)),
        put(config("b", environment="other"), 1, by=author(actor="ann", reason="", minutes=3)),
        put(FLAG, 1, by=author(actor="ann", reason="Because", minutes=4)),
        batch(*(Put(config(key), {}, Action.UPDATE) for key in "ab"), by=author(actor="cem", minutes=5)),
        remove(config("a"), by=author(actor="ann", reason="it's \\ gone", minutes=6)),
    ]
    for write in writes:
        await storage.write(write)


async def found(storage: Storage, query: ChangeQuery) -> list[tuple[int, int]]:
    """(revision, ordinal) of the page's changes."""
    return [(change.revision, change.ordinal) for change in (await storage.search(query)).changes]


async def test_search_returns_all_changes_newest_first(storage: Storage) -> None:
    await fill(storage)
    page = await storage.search(ALL)
    assert page.changes == tuple(reversed(await storage.read(0, 100)))
    assert (page.revision, page.more, page.compacted) == (6, False, 0)


FILTERS: list[tuple[dict[str, Any], list[tuple[int, int]]]] = [
    ({"kind": Kind.FLAG}, [(4, 0)]),
    ({"environment": "other"}, [(3, 0)]),
    ({"service": "svc"}, [(2, 0)]),
    ({"service": ""}, [(6, 0), (5, 1), (5, 0), (4, 0), (3, 0), (1, 0)]),
    ({"key": "b"}, [(5, 1), (3, 0)]),
    ({"actor": "bob"}, [(2, 0)]),
    ({"actor": "nobody"}, []),
    ({"reason": "ecause"}, [(5, 1), (5, 0), (4, 0), (2, 0)]),
    ({"reason": "because"}, [(5, 1), (5, 0), (2, 0)]),
    ({"reason": "%"}, [(1, 0)]),
    ({"reason": "_"}, [(1, 0)]),
    ({"reason": "'s \\ "}, [(6, 0)]),
    ({"from_time": NOON + timedelta(minutes=5)}, [(6, 0), (5, 1), (5, 0)]),
    ({"until_time": NOON + timedelta(minutes=2)}, [(1, 0)]),
    ({"after_revision": 4}, [(6, 0), (5, 1), (5, 0)]),
    ({"until_revision": 2}, [(2, 0), (1, 0)]),
    ({"before": (5, 1)}, [(5, 0), (4, 0), (3, 0), (2, 0), (1, 0)]),
    ({"before": (5, 0)}, [(4, 0), (3, 0), (2, 0), (1, 0)]),
    ({"kind": Kind.CONFIG, "environment": "test", "key": "a", "actor": "ann"}, [(6, 0), (1, 0)]),
]


@pytest.mark.parametrize(("filters", "expected"), FILTERS, ids=[str(list(filters)) for filters, _ in FILTERS])
async def test_filters_select_changes(
    storage: Storage, filters: dict[str, Any], expected: list[tuple[int, int]]
) -> None:
    await fill(storage)
    assert await found(storage, replace(ALL, **filters)) == expected


@pytest.mark.parametrize("limit", [1, 2, 3, 7])
async def test_pages_by_before_return_every_change_once(storage: Storage, limit: int) -> None:
    await fill(storage)
    query, seen = replace(ALL, limit=limit), []
    while True:
        page = await storage.search(query)
        assert len(page.changes) <= limit
        seen += [(change.revision, change.ordinal) for change in page.changes]
        if not page.more:
            break
        query = replace(query, before=seen[-1])
    assert seen == [(6, 0), (5, 1), (5, 0), (4, 0), (3, 0), (2, 0), (1, 0)]


FEW_EXAMINED = [replace(ALL, limit=limit, max_examined=most) for limit in (1, 100) for most in (1, 2, 3)]


@pytest.mark.parametrize("filters", [filters for filters, _ in FILTERS], ids=[str(list(f)) for f, _ in FILTERS])
async def test_searches_that_examine_few_changes_go_on_where_they_ended(
    storage: Storage, filters: dict[str, Any]
) -> None:
    await fill(storage)
    expected = await found(storage, replace(ALL, **filters))
    for few in FEW_EXAMINED:
        query, seen, pages = replace(few, **filters), [], 0
        while True:
            page = await storage.search(query)
            seen += [(change.revision, change.ordinal) for change in page.changes]
            pages += 1
            if not page.more:
                break
            assert page.changes or page.examined
            query = replace(query, before=page.examined or seen[-1])
        assert seen == expected
        # Seven changes, of which each page examines at least one; the last page may find that there are no more.
        assert pages <= 8


async def test_search_examines_no_more_changes_than_it_may(storage: Storage) -> None:
    await fill(storage)
    page = await storage.search(replace(ALL, reason="100%", max_examined=3))
    assert (page.changes, page.more, page.examined) == ((), True, (5, 0))
    page = await storage.search(replace(ALL, reason="100%", max_examined=3, before=page.examined))
    assert (page.changes, page.more, page.examined) == ((), True, (2, 0))
    page = await storage.search(replace(ALL, reason="100%", max_examined=3, before=page.examined))
    assert ([change.revision for change in page.changes], page.more, page.examined) == ([1], False, None)


async def test_filters_that_an_index_serves_leave_nothing_out_that_is_examined(storage: Storage) -> None:
    await fill(storage)
    served: list[dict[str, Any]] = [
        {},
        {"actor": "bob"},
        {"environment": "other"},
        {"kind": Kind.CONFIG, "environment": "test", "service": "", "key": "a"},
    ]
    for filters in served:
        page = await storage.search(replace(ALL, max_examined=1, **filters))
        assert (page.more, page.examined) == (False, None)
    only_bob = await storage.search(replace(ALL, actor="bob", environment="test", max_examined=1))
    assert [change.revision for change in only_bob.changes] == [2], "the changes of other actors are not examined"


async def test_versions_of_a_record(open_storage: StorageFactory) -> None:
    async with open_storage() as storage:
        await fill(storage)
    async with open_storage() as storage:
        assert await storage.versions(config("a")) == VersionRange(1, 3)
        assert await storage.versions(config("never")) is None
        changes = [await storage.version(config("a"), version) for version in (0, 1, 2, 3, 4)]
        assert [change and (change.revision, change.action) for change in changes] == [
            None, (1, Action.CREATE), (5, Action.UPDATE), (6, Action.DELETE), None,
        ]  # fmt: skip
        assert await storage.version(config("never"), 1) is None
