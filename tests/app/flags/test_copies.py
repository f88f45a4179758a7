"""Copies of flag sets in the fallback cache: what a replica finds that can't read the store."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from configsvc_client.evaluation import Flag, FlagSet

from configsvc.app.fallback_cache import FallbackCache, FallbackEntry
from configsvc.app.flags import copies
from configsvc.app.flags.copies import find_copy
from configsvc.app.flags.sets import FlagSets
from configsvc.cache.local import LocalCache
from configsvc.cache.port import CacheEntry
from configsvc.domain.flags import flag_ref
from configsvc.domain.records import Action, Mutation, Put, Remove
from configsvc.errors import Unavailable
from configsvc.storage.port import Storage
from tests.app.fake_clock import FakeClock, settle
from tests.app.replica import Replica, open_replica, open_storage, write_all

pytestmark = pytest.mark.timeout(60)

DAY = timedelta(days=1)
FLAGS = 100
PATIENCE_SECONDS = 10


def put(number: int, percentage: float = 0) -> Mutation:
    flag = Flag.from_json({"name": f"f{number}", "environment": "test", "rollout_percentage": percentage})
    return Put(flag_ref("test", flag.name), flag.to_json(), Action.UPDATE)


class RecordingCache(LocalCache):
    """A cache whose puts the test sees."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(1 << 24, clock)
        self.put_keys: list[str] = []
        self.keys: set[str] = set()

    @property
    def part_counts(self) -> set[str]:
        """The numbers of parts that sets were cut into."""
        return {key.split(":")[1] for key in self.keys if key.startswith("flag-set-part:")}

    async def put(self, entries: Mapping[str, CacheEntry], ttl: timedelta) -> None:
        keys = [key for key in entries if key.startswith("flag")]
        self.put_keys += keys
        self.keys.update(keys)
        await super().put(entries, ttl)


@dataclass
class SharingReplica:
    replica: Replica
    sets: FlagSets
    fallback_cache: FallbackCache

    async def catch_up(self, revision: int) -> None:
        """Returns when this replica has applied a revision and sent what changed."""
        await self.replica.tail.wait_for(revision, PATIENCE_SECONDS)
        await settle()


class World:
    def __init__(self, storage: Storage, stack: AsyncExitStack) -> None:
        self.clock = FakeClock()
        self.cache = RecordingCache(self.clock)
        self.storage = storage
        self._stack = stack

    async def replica(self, environment: str = "test") -> SharingReplica:
        """A new replica that has read the flags of the environment."""
        replica = await self._stack.enter_async_context(open_replica(self.storage, self.clock))
        fallback_cache = await self._stack.enter_async_context(FallbackCache(self.cache, self.clock, DAY))
        sets = FlagSets(reader=replica.reader, tail=replica.tail, fallback_cache=fallback_cache)
        replica.tail.subscribe(sets)
        await sets.get(environment)
        await settle()
        return SharingReplica(replica, sets, fallback_cache)

    async def write(self, *mutations: Mutation) -> int:
        return (await write_all(self.storage, *mutations)).revision

    async def copy(self) -> FlagSet | None:
        return await find_copy(FallbackCache(self.cache, self.clock, DAY), "test")

    async def expected(self) -> list[Flag]:
        """The flags that a replica reads from the store now."""
        async with open_replica(self.storage, self.clock) as replica:
            return list(await FlagSets(reader=replica.reader, tail=replica.tail).get("test"))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_storage(tmp_path) as storage, AsyncExitStack() as stack:
        made = World(storage, stack)
        await made.write(*(put(number) for number in range(FLAGS)))
        yield made


async def test_all_changes_of_one_revision_are_applied(world: World) -> None:
    sharing = await world.replica()
    await sharing.catch_up(await world.write(put(1, 10), put(2, 20), Remove(flag_ref("test", "f3")), put(1_000)))
    assert list(await sharing.sets.get("test")) == await world.expected()
    assert len(await sharing.sets.get("test")) == FLAGS


async def test_replica_that_starts_without_the_store_serves_the_copy(world: World) -> None:
    revision = (await (await world.replica()).sets.get("test")).revision
    async with open_replica(world.storage, world.clock) as replica:
        replica.reader.is_down = True
        fallback_cache = FallbackCache(world.cache, world.clock, DAY)
        sets = FlagSets(reader=replica.reader, tail=replica.tail, fallback_cache=fallback_cache)
        served = await sets.get("test")
        assert (list(served), served.revision) == (await world.expected(), revision)
        with pytest.raises(Unavailable):
            await sets.get("unknown")


async def test_change_puts_its_part_and_the_manifest_in_this_order(world: World) -> None:
    sharing = await world.replica()
    world.cache.put_keys.clear()
    revision = await world.write(put(7, 50))
    await sharing.catch_up(revision)
    part, manifest = world.cache.put_keys
    assert (part.startswith("flag-set-part:"), manifest) == (True, "flag-set:test")
    found = await world.copy()
    assert found is not None
    assert (list(found), found.revision) == (await world.expected(), revision)


async def test_first_put_ends_with_the_manifest(world: World) -> None:
    await world.replica()
    *parts, manifest = world.cache.put_keys
    assert manifest == "flag-set:test"
    assert len(parts) > FLAGS / copies.FLAGS_PER_PART
    assert all(part.startswith("flag-set-part:") for part in parts)


async def test_copy_without_any_one_of_its_entries_is_no_copy(world: World) -> None:
    await world.replica()
    assert await world.copy() is not None
    for key in world.cache.keys:
        evicted = world.cache._entries.pop(key)
        assert await world.copy() is None, key
        world.cache._entries[key] = evicted
    assert await world.copy() is not None


async def test_replicas_that_read_at_different_revisions_keep_one_copy(world: World) -> None:
    first = await world.replica()
    revision = await world.write(put(1, 10))
    second = await world.replica()
    await first.catch_up(revision)
    for number in range(20):
        revision = await world.write(put(number, 20), put(number + 1, 30))
        in_turn = [first, second] if number % 2 else [second, first]
        for sharing in in_turn:
            await sharing.catch_up(revision)
            found = await world.copy()
            assert found is not None
            assert (list(found), found.revision) == (await world.expected(), revision)


async def test_lost_change_leaves_no_copy_until_the_refresh(world: World) -> None:
    sharing = await world.replica()
    await sharing.catch_up(await world.write(put(7, 50)))
    part = next(key for key in world.cache.put_keys[-2:] if key.startswith("flag-set-part:"))
    world.cache._entries.pop(part)
    assert await world.copy() is None
    await sharing.fallback_cache._put_all()
    await settle()
    found = await world.copy()
    assert found is not None
    assert list(found) == await world.expected()


async def test_refresh_puts_the_copy_at_the_revision_of_the_log(world: World) -> None:
    sharing = await world.replica()
    other = Flag.from_json({"name": "f", "environment": "other"}).to_json()
    revision = await world.write(Put(flag_ref("other", "f"), other, Action.CREATE))
    await sharing.catch_up(revision)
    await sharing.fallback_cache._put_all()
    await settle()
    found = await world.copy()
    assert found is not None
    assert found.revision == revision


async def test_set_that_grows_and_shrinks_is_cut_again(world: World) -> None:
    sharing = await world.replica()
    await sharing.catch_up(await world.write(*(put(number) for number in range(FLAGS, 10 * FLAGS))))
    grown = await world.copy()
    assert grown is not None
    assert list(grown) == await world.expected()
    assert len(world.cache.part_counts) == 2
    revision = await world.write(*(Remove(flag_ref("test", f"f{number}")) for number in range(1, 10 * FLAGS)))
    await sharing.catch_up(revision)
    shrunk = await world.copy()
    assert shrunk is not None
    assert ([flag.name for flag in shrunk], shrunk.revision) == (["f0"], revision)
    assert len(world.cache.part_counts) == 3


async def test_set_whose_size_changes_a_little_is_not_cut_again(world: World) -> None:
    sharing = await world.replica()
    world.cache.put_keys.clear()
    for number in range(FLAGS, 2 * FLAGS):
        await sharing.catch_up(await world.write(put(number)))
    assert len(world.cache.put_keys) == 2 * FLAGS


async def test_change_between_the_reads_of_manifest_and_parts_is_found(world: World) -> None:
    sharing = await world.replica()

    class SlowReader(FallbackCache):
        async def get(self, keys: Sequence[str]) -> Mapping[str, object]:  # type: ignore[override]
            found = await super().get(keys)
            if sharing.replica.tail.applied == 1:
                await sharing.catch_up(await world.write(put(7, 50)))
            return found

    found = await find_copy(SlowReader(world.cache, world.clock, DAY), "test")
    assert found is not None
    assert list(found) == await world.expected()


@pytest.mark.parametrize("content", [None, [], {}, {"parts_since": []}, {"parts_since": ["1"]}, {"parts_since": 1}])
async def test_manifest_of_another_form_is_no_copy(world: World, content: object) -> None:
    shared = FallbackCache(world.cache, world.clock, DAY)
    await shared.put_if_absent([FallbackEntry("flag-set:test", 1, lambda: content)])
    assert await world.copy() is None


@pytest.mark.parametrize("content", [None, [], {}, {"flags": []}, {"since": 1}, {"since": "1", "flags": []}])
async def test_part_of_another_form_is_no_copy(world: World, content: object) -> None:
    shared = FallbackCache(world.cache, world.clock, DAY)
    manifest = FallbackEntry("flag-set:test", 1, lambda: {"parts_since": [1]})
    await shared.put_if_absent([manifest, FallbackEntry("flag-set-part:1:0:test", 1, lambda: content)])
    assert await world.copy() is None


async def test_copy_of_an_earlier_release_is_not_read(world: World) -> None:
    shared = FallbackCache(world.cache, world.clock, DAY)
    await shared.put_if_absent([FallbackEntry("flags:test", 1, lambda: [])])
    assert await world.copy() is None


async def test_sending_of_large_entries_gives_way_to_other_tasks() -> None:
    clock = FakeClock()
    order: list[str] = []

    def content() -> str:
        order.append("encoded")
        return "x" * 50_000

    async with FallbackCache(RecordingCache(clock), clock, DAY) as shared:
        for number in range(10):
            shared.put(FallbackEntry(f"flag-{number}", 1, content))
        while order.count("encoded") < 10:
            order.append("other task")
            await asyncio.sleep(0)
    first, last = order.index("encoded"), len(order) - order[::-1].index("encoded")
    assert order[first:last].count("other task") >= 4
