"""Lists of flags: the pages of a filter have all matches once, in order, at a bounded cost for each call."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configsvc.app.flags import store as flags
from configsvc.app.flags.store import FlagStore
from configsvc.domain.flag_filter import FlagFilter
from configsvc.domain.flags import flag_ref
from configsvc.domain.limits import Limits
from configsvc.domain.records import Record
from configsvc.errors import InvalidInput
from tests.app.flags.world import AUTHOR
from tests.app.replica import AT, FaultyReader, open_storage

pytestmark = pytest.mark.timeout(120)

READ, SCANNED = 3, 7
OWNERS, TAGS = ("", "ann", "bob"), ("a", "b", "c")


@pytest.fixture(autouse=True)
def _small_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flags, "READ_FLAGS", READ)
    monkeypatch.setattr(flags, "SCANNED_FLAGS", SCANNED)


@asynccontextmanager
async def opened() -> AsyncIterator[tuple[FlagStore, FaultyReader]]:
    with TemporaryDirectory() as folder:
        async with open_storage(Path(folder)) as storage:
            reader = FaultyReader(storage)
            yield (
                FlagStore(writer=storage, reader=reader, history=storage, limits=Limits(), keeps_assignments=True),
                reader,
            )


async def all_pages(store: FlagStore, reader: FaultyReader, flag_filter: FlagFilter, page_size: int) -> list[Record]:
    """All pages of a list, each at a bounded cost."""
    records: list[Record] = []
    token = ""
    while True:
        reader.pages = 0
        page = await store.list("test", flag_filter, page_size, token)
        assert reader.pages <= SCANNED // READ + 1
        assert len(page.items) <= page_size
        records += page.items
        token = page.next_page_token
        if not token:
            return records


def day(number: int) -> datetime:
    return AT + timedelta(days=number)


MADE = st.lists(
    st.tuples(
        st.booleans(), st.sampled_from(OWNERS), st.sets(st.sampled_from(TAGS)), st.integers(0, 3), st.integers(0, 3)
    ),
    max_size=25,
)
FILTERS = st.builds(
    FlagFilter,
    enabled=st.sampled_from((None, True, False)),
    tags=st.lists(st.sampled_from(TAGS), max_size=2).map(tuple),
    owner=st.sampled_from((None, *OWNERS)),
    created_before=st.one_of(st.none(), st.integers(0, 7).map(day)),
    updated_before=st.one_of(st.none(), st.integers(0, 7).map(day)),
)


@settings(max_examples=40, deadline=None)
@given(flags_made=MADE, flag_filter=FILTERS, page_size=st.integers(1, 8))
async def test_pages_of_any_filter_together_have_all_matches(
    flags_made: list[tuple[bool, str, set[str], int, int]], flag_filter: FlagFilter, page_size: int
) -> None:
    async with opened() as (store, reader):
        expected = []
        for number, (enabled, owner, tags, created, passed) in enumerate(flags_made):
            flag = {
                "name": f"f{number:02}", "environment": "test", "enabled": enabled, "owner": owner, "tags": [*tags],
            }  # fmt: skip
            await store.create(flag, replace(AUTHOR, at=day(created)))
            if passed:
                later = replace(AUTHOR, at=day(created + passed))
                await store.update(flag_ref("test", f"f{number:02}"), flag, later)
            if (
                flag_filter.enabled in (None, enabled)
                and flag_filter.owner in (None, owner)
                and set(flag_filter.tags) <= tags
                and (flag_filter.created_before is None or day(created) < flag_filter.created_before)
                and (flag_filter.updated_before is None or day(created + passed) < flag_filter.updated_before)
            ):
                expected.append(flag["name"])
        records = await all_pages(store, reader, flag_filter, page_size)
        assert [record.ref.key for record in records] == expected


async def test_list_without_matches_ends_after_a_bounded_number_of_calls() -> None:
    async with opened() as (store, reader):
        for number in range(20):
            await store.create({"name": f"f{number:02}", "environment": "test"}, AUTHOR)
        first = await store.list("test", FlagFilter(owner="nobody"), 5, "")
        assert first.items == ()
        assert first.next_page_token, "it has not looked at all of them yet"
        assert await all_pages(store, reader, FlagFilter(owner="nobody"), 5) == []


async def test_page_token_of_another_filter_and_impossible_filters_are_refused() -> None:
    async with opened() as (store, _):
        for number in range(3):
            await store.create({"name": f"f{number}", "environment": "test", "tags": ["a"]}, AUTHOR)
        token = (await store.list("test", FlagFilter(tags=("a",)), 1, "")).next_page_token
        for other in (FlagFilter(), FlagFilter(tags=("b",)), FlagFilter(tags=("a",), owner="")):
            with pytest.raises(InvalidInput, match="page_token"):
                await store.list("test", other, 1, token)
        with pytest.raises(InvalidInput) as refused:
            await store.list("test", FlagFilter(tags=("", "x" * 129), owner="o" * 257), 1, "")
        assert [violation.field for violation in refused.value.violations] == ["tags[0]", "tags[1]", "owner"]
