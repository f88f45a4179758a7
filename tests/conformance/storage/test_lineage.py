"""The log's identity: kept as long as the log goes on, and never shared by two futures."""

import asyncio
from dataclasses import replace

import pytest

from configsvc.domain.lineage import LEAP_REVISIONS, Checkpoint
from configsvc.domain.records import Action, Kind, Put
from configsvc.errors import Unavailable
from configsvc.storage.port import RecordQuery, RetentionPolicy, Storage
from tests.conformance.storage.databases import Database
from tests.conformance.storage.writing import StorageFactory, author, batch, config, increment, put, remove

NOWHERE = Checkpoint("", 0)


async def seen_in(storage: Storage, *keys: str, value: int = 1) -> Checkpoint:
    """Writes these keys; where the log ends then."""
    for key in keys:
        await storage.write(put(config(key), value))
    return (await storage.state()).end


async def reached(storage: Storage) -> None:
    """Returns when the database answers again: a restore cuts its connections."""
    async with asyncio.timeout(30):
        while True:
            try:
                await storage.ping()
                # The connection that writes, too.
                await storage.new_history_if_diverged(NOWHERE, "")
                return
            except Unavailable:
                await asyncio.sleep(0.01)


class TestEverythingNamesTheHistory:
    async def test_a_new_database_has_one_of_its_own(self, open_storage: StorageFactory) -> None:
        async with open_storage() as storage:
            first = (await storage.state()).history
        async with open_storage() as storage:
            assert (await storage.state()).history == first
            origin = await storage.history_origin()
        assert len(first) == 26
        assert first.isalnum()
        assert (origin.history, origin.since) == (first, 0)

    async def test_reads_and_commits_name_it(self, storage: Storage) -> None:
        commit = await storage.write(put(config("a"), by=author("r1"), fingerprint="f"))
        again = await storage.write(put(config("a"), by=author("r1"), fingerprint="f"))
        history = (await storage.state()).history
        view = await storage.get([config("a")])
        page = await storage.page(RecordQuery(Kind.CONFIG, "test", 10))
        (change,) = await storage.read(0, 10)
        version = await storage.version(config("a"), 1)
        assert version is not None
        assert again.replayed
        record = view.get(config("a"))
        assert record is not None
        named = [
            commit,
            commit.changes[0],
            again,
            again.changes[0],
            view,
            record,
            page,
            page.records[0],
            change,
            version,
        ]
        assert {one.history for one in named} == {history}  # type: ignore[attr-defined]
        assert record.etag == f"1-1-{history}"


class TestDigest:
    async def test_is_chained_over_every_change(self, storage: Storage) -> None:
        await storage.write(put(config("a")))
        await storage.write(batch(*(Put(config(key), {}, Action.CREATE) for key in "bcd")))
        await storage.write(remove(config("b")))
        digests = [change.digest for change in await storage.read(0, 10)]
        assert len(set(digests)) == 5
        assert "" not in digests
        state = await storage.state()
        assert state.digest == digests[-1]
        for revision, digest in ((1, digests[0]), (2, digests[3]), (3, digests[4])):
            assert (await storage.resume(Checkpoint(state.history, revision), 10)).stored_digest == digest

    async def test_writes_of_one_group_are_chained_too(self, storage: Storage) -> None:
        await asyncio.gather(*(storage.write(increment(config(f"k{number % 3}"))) for number in range(40)))
        changes = await storage.read(0, 100)
        assert len({change.digest for change in changes}) == 40
        assert (await storage.state()).digest == changes[-1].digest

    async def test_a_change_that_was_compacted_away_is_not_known_and_not_denied(self, storage: Storage) -> None:
        old = await seen_in(storage, "a", "b", "c")
        await seen_in(storage, "d", "e")
        await storage.compact(RetentionPolicy(1))
        page = await storage.resume(old, 10)
        assert (page.stored_digest, page.continues(old)) == ("", True)

    async def test_a_log_in_which_an_older_release_has_written_goes_on(self, database: Database) -> None:
        """Its changes have no digest, and are tolerated; the chain goes on behind them."""
        async with database.open() as storage:
            here = await seen_in(storage, "a", "b")
            # What a process of the release before does: it knows neither column.
            database.run("UPDATE {0}changes SET digest = NULL WHERE revision = 2")
            database.run("UPDATE {0}counter SET digest = (SELECT digest FROM {0}changes WHERE revision = 1)")
            page = await storage.resume(here, 10)
            assert (page.stored_digest, page.continues(here)) == ("", True)
            after = await seen_in(storage, "c")
            assert (after.revision, after.history) == (3, here.history)
            assert after.digest not in ("", here.digest)
            assert await storage.new_history_if_diverged(here, "why") == await storage.state()

    async def test_a_log_of_an_older_release_gets_its_first_history(self, database: Database) -> None:
        async with database.open() as storage:
            await seen_in(storage, "a")
        database.run("UPDATE {0}counter SET history = '', digest = ''; UPDATE {0}changes SET digest = NULL")
        database.run("DELETE FROM {0}histories")
        async with database.open() as storage:
            state = await storage.state()
            assert (len(state.history), state.head, state.since, state.digest) == (26, 1, 0, "")
            assert (await storage.history_origin()).history == state.history
            assert (await storage.write(put(config("b")))).revision == 2


class TestFollow:
    async def test_gives_what_comes_after_a_place_that_the_log_knows(self, storage: Storage) -> None:
        here = await seen_in(storage, "a", "b")
        there = await seen_in(storage, "c", "d")
        page = await storage.resume(here, 10)
        assert page.continues(here)
        assert [change.revision for change in page.changes] == [3, 4]
        assert page.changes[-1].checkpoint == there == page.state.end

    async def test_does_not_continue_a_revision_that_the_log_does_not_have(self, storage: Storage) -> None:
        here = await seen_in(storage, "a")
        page = await storage.resume(replace(here, revision=2), 10)
        assert not page.continues(replace(here, revision=2))

    async def test_does_not_continue_a_place_with_another_digest(self, storage: Storage) -> None:
        here = await seen_in(storage, "a", "b")
        other = replace(here, digest="0" * 32)
        assert not (await storage.resume(other, 10)).continues(other)


class TestReconcile:
    async def test_changes_nothing_where_the_log_goes_on(self, storage: Storage) -> None:
        here = await seen_in(storage, "a")
        state = await storage.state()
        assert await storage.new_history_if_diverged(here, "why") == state
        assert await storage.new_history_if_diverged(NOWHERE, "why") == state
        await seen_in(storage, "b")
        assert (await storage.new_history_if_diverged(here, "why")).history == state.history

    @pytest.mark.parametrize("digest", ["", "0" * 32])
    async def test_a_place_that_is_lost_makes_a_new_history_above_it(self, storage: Storage, digest: str) -> None:
        here = await seen_in(storage, "a", "b")
        lost = Checkpoint(here.history, 2 if digest else 7, digest)
        turned = await storage.new_history_if_diverged(lost, "the log fell behind")
        assert turned == await storage.state()
        assert turned.history != here.history
        assert turned.head == turned.since == max(lost.revision, 2) + LEAP_REVISIONS
        origin = await storage.history_origin()
        assert (origin.history, origin.since, origin.reason) == (turned.history, turned.since, "the log fell behind")
        # Writes go on above, and the common past is still there.
        assert (await storage.write(put(config("c")))).revision == turned.since + 1
        assert [change.revision for change in await storage.read(0, 10)] == [1, 2, turned.since + 1]
        assert {change.history for change in await storage.read(0, 10)} == {turned.history}

    async def test_of_many_that_see_the_same_one_makes_it(self, open_storage: StorageFactory) -> None:
        async with open_storage() as storage:
            here = await seen_in(storage, "a")
            lost = replace(here, revision=5)
            found = await asyncio.gather(*(storage.new_history_if_diverged(lost, "why") for _ in range(8)))
            assert {state.history for state in found} == {(await storage.state()).history} != {here.history}
            # One that saw a little more of what is lost finds its revisions below the new ones, too.
            assert await storage.new_history_if_diverged(replace(here, revision=9), "why") == found[0]

    async def test_a_later_history_whose_beginning_is_too_low_makes_another_one(self, storage: Storage) -> None:
        here = await seen_in(storage, "a")
        marked = await storage.new_history("an operator's", leap=3)
        assert marked.since == 4
        turned = await storage.new_history_if_diverged(replace(here, revision=50), "why")
        assert turned.history not in (here.history, marked.history)
        assert turned.since > 50

    async def test_what_had_left_for_the_outside_has_left_and_the_rest_still_waits(self, storage: Storage) -> None:
        here = await seen_in(storage, "a", "b")
        async with storage.outbox_lease() as lease:
            await lease.advance(1, ())
            turned = await storage.new_history_if_diverged(replace(here, revision=9), "why")
            assert (await storage.outbox_status()).published == 1
            await lease.advance(turned.head, ())
            again = await storage.new_history("an operator's")
            assert (await storage.outbox_status()).published == again.head


class TestAnOlderCopyIsRestored:
    """Under an open storage, which tells nobody."""

    async def test_its_own_log_is_no_continuation(self, database: Database) -> None:
        async with database.open() as storage:
            await seen_in(storage, "a")
            restore = database.back_up()
            await reached(storage)
            lost = await seen_in(storage, "b", "c")
            restore()
            await reached(storage)
            page = await storage.resume(lost, 10)
            assert not page.continues(lost)
            turned = await storage.new_history_if_diverged(lost, "why")
            assert turned.since > lost.revision
            assert [change.ref.key for change in await storage.read(0, 10)] == ["a"]

    async def test_nor_is_one_that_has_gone_on_for_longer_since(self, database: Database) -> None:
        async with database.open() as storage:
            await seen_in(storage, "a")
            restore = database.back_up()
            await reached(storage)
            lost = await seen_in(storage, "b", "c")
            restore()
            # A process that has seen nothing writes what it likes.
            await storage.__aexit__(None, None, None)
            async with database.open() as other:
                await seen_in(other, "b", "c", "d", value=2)
            await storage.__aenter__()
            page = await storage.resume(lost, 10)
            assert not page.continues(lost)
            turned = await storage.new_history_if_diverged(lost, "why")
            assert turned.since > page.state.head

    async def test_no_write_is_acknowledged_until_it_has_a_history_of_its_own(self, database: Database) -> None:
        async with database.open() as storage:
            await seen_in(storage, "a")
            restore = database.back_up()
            await reached(storage)
            lost = await seen_in(storage, "b", "c")
            restore()
            await reached(storage)
            with pytest.raises(Unavailable) as caught:
                await storage.write(put(config("d")))
            assert caught.value.reason == "LOG_DIVERGED"
            assert [change.ref.key for change in await storage.read(0, 10)] == ["a"]
            turned = await storage.new_history_if_diverged(lost, "why")
            commit = await storage.write(put(config("d")))
            assert (commit.revision, commit.history) == (turned.since + 1, turned.history)

    async def test_a_copy_that_lacks_nothing_is_the_same_log(self, database: Database) -> None:
        """As after the promotion of a synchronous replica."""
        async with database.open() as storage:
            here = await seen_in(storage, "a", "b")
            restore = database.back_up()
            await reached(storage)
            restore()
            await reached(storage)
            assert (await storage.resume(here, 10)).continues(here)
            assert await storage.new_history_if_diverged(here, "why") == await storage.state()
            commit = await storage.write(put(config("c")))
            assert (commit.revision, commit.history) == (3, here.history)
