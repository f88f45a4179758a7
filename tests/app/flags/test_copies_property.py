"""A copy of a flag set is whole, of one revision, or not found, whatever happened to its entries."""

import asyncio
import json
import random
from collections.abc import Iterable
from datetime import timedelta

import pytest
from configsvc_client.evaluation import Flag, FlagSet
from hypothesis import given, settings
from hypothesis import strategies as st

from configsvc.app.fallback_cache import FallbackCache, FallbackEntry
from configsvc.app.flags import copies
from configsvc.app.flags.copies import FlagSetParts, find_copy
from configsvc.cache.local import LocalCache
from configsvc.cache.port import CacheEntry
from tests.app.fake_clock import FakeClock

DAY = timedelta(days=1)
NAMES = [f"f{number}" for number in range(24)]


class Replicas:
    """Replicas that follow one log of flags, and one cache that gets their entries late, in any order, or never."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        # The flags at each revision.
        self.log: list[dict[str, int]] = [dict.fromkeys(chance.sample(NAMES, 6), 0)]
        self._changed: list[list[str]] = [[]]
        self._replicas: list[tuple[int, FlagSetParts]] = []
        # Encoded when they arrive, as the fallback cache does.
        self._waiting: list[FallbackEntry] = []
        self.cache = LocalCache(1 << 24, FakeClock())

    def flag_set(self, revision: int) -> FlagSet:
        flags = [
            Flag.from_json({"name": name, "environment": "test", "description": str(value)})
            for name, value in self.log[revision].items()
        ]
        return FlagSet("test", flags, revision)

    def write(self) -> None:
        """Some flags are put or removed; a part of the revisions changes another environment."""
        state = dict(self.log[-1])
        names = self._chance.sample(NAMES, self._chance.choice([0, 1, 1, 2, 8]))
        for name in names:
            if name in state and self._chance.random() < 0.4:
                del state[name]
            else:
                state[name] = len(self.log)
        self.log.append(state)
        self._changed.append(names)

    def start(self) -> None:
        """A replica reads the set at a revision that need not be the newest."""
        revision = self._chance.randrange(max(0, len(self.log) - 3), len(self.log))
        parts = FlagSetParts(self.flag_set(revision))
        self._replicas.append((revision, parts))
        self._send(parts.entries(revision))

    def follow(self) -> None:
        """A replica applies some of the revisions that it does not have."""
        if not self._replicas:
            return
        index = self._chance.randrange(len(self._replicas))
        revision, parts = self._replicas[index]
        until = self._chance.randint(revision, len(self.log) - 1)
        changed = [name for names in self._changed[revision + 1 : until + 1] for name in names]
        self._replicas[index] = until, parts
        if changed:
            last_change = max(number for number in range(revision + 1, until + 1) if self._changed[number])
            self._send(parts.replace(self.flag_set(last_change), changed))

    def refresh(self) -> None:
        if self._replicas:
            revision, parts = self._chance.choice(self._replicas)
            self._send(parts.entries(revision))

    def _send(self, entries: Iterable[FallbackEntry]) -> None:
        self._waiting += entries

    async def deliver(self) -> None:
        """Some entries arrive, in any order."""
        if self._chance.random() < 0.5:
            self._chance.shuffle(self._waiting)
        for _ in range(self._chance.randint(0, len(self._waiting))):
            await self._arrive(self._waiting.pop(0))

    async def lose(self) -> None:
        """An entry is lost before it arrives, or is evicted."""
        if self._waiting:
            self._waiting.pop(self._chance.randrange(len(self._waiting)))
        if self.cache._entries:
            self.cache._drop(self._chance.choice([*self.cache._entries]))

    async def deliver_all(self) -> None:
        for entry in self._waiting:
            await self._arrive(entry)
        self._waiting.clear()

    async def _arrive(self, entry: FallbackEntry) -> None:
        payload = json.dumps(entry.content()).encode()
        await self.cache.put({entry.key: CacheEntry(entry.revision, payload)}, DAY)

    async def copy(self) -> FlagSet | None:
        return await find_copy(FallbackCache(self.cache, FakeClock(), DAY), "test")

    def follow_all(self) -> None:
        """Every replica applies the whole log and refreshes its copy."""
        for index, (revision, parts) in enumerate(self._replicas):
            changed = [name for names in self._changed[revision + 1 :] for name in names]
            newest = len(self.log) - 1
            if changed:
                self._send(parts.replace(self.flag_set(newest), changed))
            self._send(parts.entries(newest))
            self._replicas[index] = newest, parts


async def _run(chance: random.Random, steps: list[str]) -> int:
    replicas = Replicas(chance)
    found = 0
    for step in steps:
        match step:
            case "write":
                replicas.write()
            case "start":
                replicas.start()
            case "follow":
                replicas.follow()
            case "refresh":
                replicas.refresh()
            case "deliver":
                await replicas.deliver()
            case "lose":
                await replicas.lose()
        if (copy := await replicas.copy()) is not None:
            assert list(copy) == list(replicas.flag_set(copy.revision)), f"the copy mixes revisions: {copy.revision}"
            found += 1
    replicas.start()
    replicas.follow_all()
    await replicas.deliver_all()
    last = await replicas.copy()
    assert last is not None, "replicas that have the whole log, and whose entries arrive, leave a copy"
    assert (list(last), last.revision) == (list(replicas.flag_set(len(replicas.log) - 1)), len(replicas.log) - 1)
    return found


STEPS = ["write", "start", "follow", "follow", "refresh", "deliver", "deliver", "lose"]


@settings(deadline=None)
@given(st.randoms(use_true_random=False), st.lists(st.sampled_from(STEPS), max_size=60))
def test_copy_is_whole_or_not_found(chance: random.Random, steps: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(copies, "FLAGS_PER_PART", 2)
        asyncio.run(_run(chance, steps))


def test_property_sees_copies_of_many_revisions() -> None:
    chance = random.Random(7)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(copies, "FLAGS_PER_PART", 2)
        found = sum(asyncio.run(_run(chance, chance.choices(STEPS, k=60))) for _ in range(50))
    assert found > 100
