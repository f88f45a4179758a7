"""Reads of the store that fill the near cache, while the log goes on."""

import asyncio

import pytest

from configsvc.app.configs.near_cache import NearCache
from configsvc.errors import Unavailable
from configsvc.storage.port import RetentionPolicy
from tests.app.configs.near_reads import A, B, value_of
from tests.app.fake_clock import settle
from tests.app.replica import Replica, write

pytestmark = pytest.mark.timeout(60)


def hold(replica: Replica) -> asyncio.Event:
    """Holds back the answers of the store until the event is set."""
    replica.reader.release = asyncio.Event()
    replica.reader.is_holding.clear()
    return replica.reader.release


async def test_concurrent_reads_of_a_record_share_one_fill(replica: Replica, near_cache: NearCache) -> None:
    await replica.put(A, 1)
    views = await asyncio.gather(*(near_cache.get([A]) for _ in range(50)))
    assert [value_of(view, A) for view in views] == [1] * 50
    assert replica.reader.gets == 1


async def test_late_fill_does_not_restore_an_old_value(replica: Replica, near_cache: NearCache) -> None:
    await replica.put(A, "old")
    release = hold(replica)
    asking = asyncio.ensure_future(near_cache.get([A]))
    await replica.reader.is_holding.wait()
    await replica.put(A, "new")
    release.set()
    view = await asking
    assert (view.revision, value_of(view, A)) == (2, "new")
    assert value_of(await near_cache.get([A]), A) == "new"
    assert replica.reader.gets == 1


async def test_late_fill_does_not_restore_a_removed_record(replica: Replica, near_cache: NearCache) -> None:
    await replica.put(A, "old")
    release = hold(replica)
    asking = asyncio.ensure_future(near_cache.get([A]))
    await replica.reader.is_holding.wait()
    await replica.put(A, None)
    release.set()
    assert value_of(await asking, A) is None
    assert value_of(await near_cache.get([A]), A) is None


async def test_late_fill_is_kept_if_only_other_records_were_written(replica: Replica, near_cache: NearCache) -> None:
    """Otherwise a busy service would never have anything in memory."""
    await replica.put(A, 1)
    release = hold(replica)
    asking = asyncio.ensure_future(near_cache.get([A]))
    await replica.reader.is_holding.wait()
    for number in range(5):
        await replica.put(B, number)
    release.set()
    view = await asking
    assert (view.revision, value_of(view, A)) == (6, 1)
    await near_cache.get([A])
    assert replica.reader.gets == 1


async def test_fill_ahead_of_the_tail_is_not_replaced_by_older_changes(replica: Replica, near_cache: NearCache) -> None:
    """Another replica has written twice. The fill has both writes; then the tail reports them one after the other."""
    first = await write(replica.storage, (A, 1))
    second = await write(replica.storage, (A, 2))
    view = await near_cache.get([A])
    assert (view.revision, value_of(view, A)) == (2, 2)
    for commit in (first, second):
        replica.tail.on_commit(commit)
        view = await near_cache.get([A])
        assert (view.revision, value_of(view, A)) == (2, 2)


async def test_failed_fill_fails_all_waiters_and_the_next_read_retries(replica: Replica, near_cache: NearCache) -> None:
    replica.reader.is_down = True
    failed = await asyncio.gather(*(near_cache.get([A]) for _ in range(3)), return_exceptions=True)
    assert all(isinstance(error, Unavailable) for error in failed)
    assert replica.reader.gets == 1
    replica.reader.is_down = False
    await replica.put(A, 1)
    assert value_of(await near_cache.get([A]), A) == 1


async def test_cancelled_caller_does_not_cancel_the_fill_of_the_others(replica: Replica, near_cache: NearCache) -> None:
    await replica.put(A, 1)
    release = hold(replica)
    first, second = (asyncio.ensure_future(near_cache.get([A])) for _ in range(2))
    await replica.reader.is_holding.wait()
    first.cancel()
    await settle()
    release.set()
    assert value_of(await second, A) == 1
    assert first.cancelled()
    assert replica.reader.gets == 1


async def test_no_old_value_is_answered_after_a_gap_in_the_log(replica: Replica, near_cache: NearCache) -> None:
    await replica.put(A, "old")
    await near_cache.get([A])
    release = hold(replica)
    asking = asyncio.ensure_future(near_cache.get([B]))
    await replica.reader.is_holding.wait()
    for number in range(20):
        await write(replica.storage, (A, number), (B, number))
    await replica.storage.compact(RetentionPolicy(2))
    replica.reader.release = None
    await replica.tail.wait_for(21, None)
    release.set()
    await asking
    for ref in (A, B):
        view = await near_cache.get([ref])
        assert (view.revision, value_of(view, ref)) == (21, 19)
