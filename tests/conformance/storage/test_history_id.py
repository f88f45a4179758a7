"""The log's history id: kept as long as the log continues, and never shared by two logs that diverged."""

import asyncio
from dataclasses import replace

import pytest

from configsvc.domain.lineage import LEAP_REVISIONS, Checkpoint
from configsvc.domain.records import Action, Kind, Put
from configsvc.errors import Unavailable
from configsvc.storage.port import RecordQuery, RetentionPolicy, Storage
from tests.conformance.storage.databases import Database
from tests.conformance.storage.writing import StorageFactory, author, batch, config, increment, put, remove

NOTHING_SEEN = Checkpoint("", 0)


async def write_keys(storage: Storage, *keys: str, value: int = 1) -> Checkpoint:
    """Writes these keys; returns where the log ends then."""
    for key in keys:
        await storage.write(put(config(key), value))
    return (await storage.state()).end


async def wait_until_usable(storage: Storage) -> None:
    """Returns when the database answers again: a restore closes its connections."""
    async with asyncio.timeout(30):
        while True:
            try:
                await storage.ping()
                # Uses the connection that writes, too.
                await storage.new_history_if_diverged(NOTHING_SEEN, "")
                return
            except Unavailable:
                await asyncio.sleep(0.01)


async def lose_writes(database: Database, storage: Storage) -> Checkpoint:
    """Restores a copy that has `a` alone; returns the end of the log before, which had `b` and `c`, too."""
    await write_keys(storage, "a")
    restore = database.back_up()
    await wait_until_usable(storage)
    lost = await write_keys(storage, "b", "c")
    restore()
    return lost


class TestHistoryId:
    async def test_new_database_gets_a_history_and_keeps_it(self, open_storage: StorageFactory) -> None:
        async with open_storage() as storage:
            first = (await storage.state()).history
        async with open_storage() as storage:
            assert (await storage.state()).history == first
            origin = await storage.history_origin()
        assert len(first) == 26
        assert first.isalnum()
        assert (origin.history, origin.since) == (first, 0)

    async def test_reads_and_commits_name_the_history(self, storage: Storage) -> None:
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
    async def test_digest_is_chained_over_every_change(self, storage: Storage) -> None:
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

    async def test_writes_of_one_group_are_chained(self, storage: Storage) -> None:
        await asyncio.gather(*(storage.write(increment(config(f"k{number % 3}"))) for number in range(40)))
        changes = await storage.read(0, 100)
        assert len({change.digest for change in changes}) == 40
        assert (await storage.state()).digest == changes[-1].digest

    async def test_compacted_checkpoint_has_no_digest_and_still_continues(self, storage: Storage) -> None:
        old = await write_keys(storage, "a", "b", "c")
        await write_keys(storage, "d", "e")
        await storage.compact(RetentionPolicy(1))
        page = await storage.resume(old, 10)
        assert (page.stored_digest, page.continues(old)) == ("", True)

    async def test_changes_of_an_older_release_without_digests_are_tolerated(self, database: Database) -> None:
        """The chain of digests goes on after them."""
        async with database.open() as storage:
            seen = await write_keys(storage, "a", "b")
            # An older release writes no digests.
            database.run("UPDATE {0}changes SET digest = NULL WHERE revision = 2")
            database.run("UPDATE {0}counter SET digest = (SELECT digest FROM {0}changes WHERE revision = 1)")
            page = await storage.resume(seen, 10)
            assert (page.stored_digest, page.continues(seen)) == ("", True)
            after = await write_keys(storage, "c")
            assert (after.revision, after.history) == (3, seen.history)
            assert after.digest not in ("", seen.digest)
            assert await storage.new_history_if_diverged(seen, "why") == await storage.state()

    async def test_log_of_an_older_release_gets_its_first_history(self, database: Database) -> None:
        async with database.open() as storage:
            await write_keys(storage, "a")
        database.run("UPDATE {0}counter SET history = '', digest = ''; UPDATE {0}changes SET digest = NULL")
        database.run("DELETE FROM {0}histories")
        async with database.open() as storage:
            state = await storage.state()
            assert (len(state.history), state.head, state.since, state.digest) == (26, 1, 0, "")
            assert (await storage.history_origin()).history == state.history
            assert (await storage.write(put(config("b")))).revision == 2


class TestResume:
    async def test_returns_the_changes_after_a_known_checkpoint(self, storage: Storage) -> None:
        seen = await write_keys(storage, "a", "b")
        end = await write_keys(storage, "c", "d")
        page = await storage.resume(seen, 10)
        assert page.continues(seen)
        assert [change.revision for change in page.changes] == [3, 4]
        assert page.changes[-1].checkpoint == end == page.state.end

    async def test_checkpoint_above_the_head_does_not_continue(self, storage: Storage) -> None:
        seen = await write_keys(storage, "a")
        page = await storage.resume(replace(seen, revision=2), 10)
        assert not page.continues(replace(seen, revision=2))

    async def test_checkpoint_with_another_digest_does_not_continue(self, storage: Storage) -> None:
        seen = await write_keys(storage, "a", "b")
        other = replace(seen, digest="0" * 32)
        assert not (await storage.resume(other, 10)).continues(other)


class TestNewHistoryIfDiverged:
    async def test_log_that_continues_keeps_its_history(self, storage: Storage) -> None:
        seen = await write_keys(storage, "a")
        state = await storage.state()
        assert await storage.new_history_if_diverged(seen, "why") == state
        assert await storage.new_history_if_diverged(NOTHING_SEEN, "why") == state
        await write_keys(storage, "b")
        assert (await storage.new_history_if_diverged(seen, "why")).history == state.history

    @pytest.mark.parametrize("digest", ["", "0" * 32])
    async def test_lost_checkpoint_starts_a_new_history_above_it(self, storage: Storage, digest: str) -> None:
        seen = await write_keys(storage, "a", "b")
        lost = Checkpoint(seen.history, 2 if digest else 7, digest)
        renewed = await storage.new_history_if_diverged(lost, "the log fell behind")
        assert renewed == await storage.state()
        assert renewed.history != seen.history
        assert renewed.head == renewed.since == max(lost.revision, 2) + LEAP_REVISIONS
        origin = await storage.history_origin()
        assert (origin.history, origin.since, origin.reason) == (renewed.history, renewed.since, "the log fell behind")
        # Writes continue above it, and the changes before it are still readable.
        assert (await storage.write(put(config("c")))).revision == renewed.since + 1
        assert [change.revision for change in await storage.read(0, 10)] == [1, 2, renewed.since + 1]
        assert {change.history for change in await storage.read(0, 10)} == {renewed.history}

    async def test_concurrent_callers_get_the_same_new_history(self, open_storage: StorageFactory) -> None:
        async with open_storage() as storage:
            seen = await write_keys(storage, "a")
            lost = replace(seen, revision=5)
            found = await asyncio.gather(*(storage.new_history_if_diverged(lost, "why") for _ in range(8)))
            assert {state.history for state in found} == {(await storage.state()).history} != {seen.history}
            # A caller that saw more of the lost log needs no other history: the new one begins above that, too.
            assert await storage.new_history_if_diverged(replace(seen, revision=9), "why") == found[0]

    async def test_newer_history_that_begins_too_low_is_replaced(self, storage: Storage) -> None:
        seen = await write_keys(storage, "a")
        marked = await storage.new_history("by an operator", leap=3)
        assert marked.since == 4
        renewed = await storage.new_history_if_diverged(replace(seen, revision=50), "why")
        assert renewed.history not in (seen.history, marked.history)
        assert renewed.since > 50

    async def test_published_changes_stay_published_and_the_rest_still_waits(self, storage: Storage) -> None:
        seen = await write_keys(storage, "a", "b")
        async with storage.outbox_lease() as lease:
            await lease.advance(1, ())
            renewed = await storage.new_history_if_diverged(replace(seen, revision=9), "why")
            assert (await storage.outbox_status()).published == 1
            await lease.advance(renewed.head, ())
            again = await storage.new_history("by an operator")
            assert (await storage.outbox_status()).published == again.head


class TestRestoredCopy:
    """An older copy is restored while a storage is open; nothing announces it."""

    async def test_restored_log_does_not_continue(self, database: Database) -> None:
        async with database.open() as storage:
            lost = await lose_writes(database, storage)
            await wait_until_usable(storage)
            page = await storage.resume(lost, 10)
            assert not page.continues(lost)
            renewed = await storage.new_history_if_diverged(lost, "why")
            assert renewed.since > lost.revision
            assert [change.ref.key for change in await storage.read(0, 10)] == ["a"]

    async def test_restored_log_that_grew_longer_does_not_continue(self, database: Database) -> None:
        async with database.open() as storage:
            lost = await lose_writes(database, storage)
            # A process that has seen nothing of the lost log writes.
            await storage.__aexit__(None, None, None)
            async with database.open() as other:
                await write_keys(other, "b", "c", "d", value=2)
            await storage.__aenter__()
            page = await storage.resume(lost, 10)
            assert not page.continues(lost)
            renewed = await storage.new_history_if_diverged(lost, "why")
            assert renewed.since > page.state.head

    async def test_write_is_refused_until_the_restored_log_has_a_new_history(self, database: Database) -> None:
        async with database.open() as storage:
            lost = await lose_writes(database, storage)
            await wait_until_usable(storage)
            with pytest.raises(Unavailable) as caught:
                await storage.write(put(config("d")))
            assert caught.value.reason == "LOG_DIVERGED"
            assert [change.ref.key for change in await storage.read(0, 10)] == ["a"]
            renewed = await storage.new_history_if_diverged(lost, "why")
            commit = await storage.write(put(config("d")))
            assert (commit.revision, commit.history) == (renewed.since + 1, renewed.history)

    async def test_complete_copy_continues(self, database: Database) -> None:
        """As after a failover to a synchronous replica."""
        async with database.open() as storage:
            seen = await write_keys(storage, "a", "b")
            restore = database.back_up()
            await wait_until_usable(storage)
            restore()
            await wait_until_usable(storage)
            assert (await storage.resume(seen, 10)).continues(seen)
            assert await storage.new_history_if_diverged(seen, "why") == await storage.state()
            commit = await storage.write(put(config("c")))
            assert (commit.revision, commit.history) == (3, seen.history)
