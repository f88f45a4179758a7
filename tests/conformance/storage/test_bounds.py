"""What `storage/port` promises of `max_bytes`."""

from dataclasses import replace

import pytest

from configsvc.domain.records import Action, Kind, Put
from configsvc.errors import InvalidInput
from configsvc.storage.port import ChangeQuery, RecordQuery, Storage
from tests.conformance.storage.writing import batch, config, put, remove

LARGE = "x" * 1_000
PAGE = RecordQuery(Kind.CONFIG, "test", limit=100)


async def test_page_stops_at_max_bytes_and_reports_more(storage: Storage) -> None:
    for number in range(10):
        await storage.write(put(config(f"k{number}"), LARGE))
    query, seen = replace(PAGE, max_bytes=2_500), []
    while True:
        page = await storage.page(query)
        seen.append([record.ref.key for record in page.records])
        if not page.more:
            break
        query = replace(query, after=(page.records[-1].ref.key, ""))
    # The third body exceeds the bound.
    assert seen == [["k0", "k1", "k2"], ["k3", "k4", "k5"], ["k6", "k7", "k8"], ["k9"]]
    assert [len(r.body["value"]) for r in page.records] == [1_000]


async def test_page_stops_when_the_bound_is_reached_exactly(storage: Storage) -> None:
    for number in range(4):
        await storage.write(put(config(f"k{number}"), LARGE))
    body_bytes = len('{"value":""}') + len(LARGE)
    assert len((await storage.page(replace(PAGE, max_bytes=2 * body_bytes))).records) == 2
    assert len((await storage.page(replace(PAGE, max_bytes=2 * body_bytes + 1))).records) == 3


@pytest.mark.parametrize("max_bytes", [1, 1_500, None])
async def test_page_does_not_split_the_records_of_a_key(storage: Storage, max_bytes: int | None) -> None:
    for key in ("a", "b"):
        for service in ("", "s", "t"):
            await storage.write(put(config(key, service), LARGE))
    page = await storage.page(replace(PAGE, max_bytes=max_bytes))
    expected = [("a", ""), ("a", "s"), ("a", "t"), *([] if max_bytes else [("b", ""), ("b", "s"), ("b", "t")])]
    assert [(r.ref.key, r.ref.service) for r in page.records] == expected
    assert page.more is bool(max_bytes)


async def test_empty_page_and_exactly_full_page_have_no_more(storage: Storage) -> None:
    empty = await storage.page(replace(PAGE, max_bytes=10))
    assert (empty.records, empty.more, empty.revision) == ((), False, 0)
    await storage.write(put(config("k"), LARGE))
    one = await storage.page(replace(PAGE, max_bytes=10, limit=1))
    assert (len(one.records), one.more, one.revision) == (1, False, 1)
    await storage.write(put(config("l"), LARGE))
    assert (await storage.page(replace(PAGE, max_bytes=100_000, limit=1))).more
    assert not (await storage.page(replace(PAGE, max_bytes=100_000, limit=2))).more


async def test_search_counts_the_bytes_of_both_bodies(storage: Storage) -> None:
    for _ in range(4):
        await storage.write(put(config("k"), LARGE))
    query, seen = ChangeQuery(limit=100, max_bytes=2_500), []
    while True:
        page = await storage.search(query)
        seen.append([change.version for change in page.changes])
        if not page.more:
            break
        query = replace(query, before=(page.changes[-1].revision, page.changes[-1].ordinal))
    assert seen == [[4, 3], [2, 1]]


async def test_log_read_stops_at_max_bytes_after_a_whole_revision(storage: Storage) -> None:
    await storage.write(batch(*(Put(config(f"a{n}"), {"value": LARGE}, Action.CREATE) for n in range(5))))
    for number in range(5):
        await storage.write(put(config(f"b{number}"), LARGE))
    await storage.write(remove(config("b0")))
    after, seen = 0, []
    while changes := await storage.read(after, 100, 2_500):
        seen.append([change.revision for change in changes])
        after = changes[-1].revision
    assert seen == [[1] * 5, [2, 3, 4], [5, 6, 7]]
    assert [c.revision for c in await storage.read(0, 6, None)] == [1] * 5 + [2]
    assert [c.revision for c in await storage.read(0, 1_000, None)] == [1] * 5 + [2, 3, 4, 5, 6, 7]


async def test_resource_too_large_for_an_answer_is_refused_alone(storage: Storage) -> None:
    await storage.write(put(config("k"), 1))
    with pytest.raises(InvalidInput) as raised:
        await storage.write(put(config("k"), [1] * 370_000))
    assert (raised.value.reason, raised.value.violations[0].field) == ("RESOURCE_TOO_LARGE", "value")
    assert (await storage.write(put(config("k"), 2))).revision == 2
    assert (await storage.get([config("k")])).records[config("k")].version == 2
