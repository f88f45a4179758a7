"""Two replicas that write to one PostgreSQL at once: each gets its share, whatever the other one does.

Shares are counted in writes and in revisions, so that the speed of the machine does not matter.
"""

import asyncio
from itertools import pairwise
from statistics import median

from configsvc.storage.postgres.storage import PostgresStorage
from tests.conformance.storage.writing import config, put

IN_FLIGHT = 64
# Some fifty groups of each replica.
WRITES = 6_000


class Load:
    """Keeps writes in flight at several storages until they have made `WRITES` together."""

    def __init__(self) -> None:
        self.done = 0

    async def write(self, storage: PostgresStorage, name: str, in_flight: int) -> list[int]:
        """The revisions of the writes of this storage, in order."""
        revisions: list[int] = []

        async def one(number: int) -> None:
            while self.done < WRITES:
                revisions.append((await storage.write(put(config(f"{name}-{number}"), self.done))).revision)
                self.done += 1

        await asyncio.gather(*map(one, range(in_flight)))
        return sorted(revisions)


async def test_two_busy_replicas_share_the_log(postgres_url: str) -> None:
    load = Load()
    async with PostgresStorage(postgres_url) as one, PostgresStorage(postgres_url) as other:
        shares = await asyncio.gather(load.write(one, "a", IN_FLIGHT), load.write(other, "b", IN_FLIGHT))
    assert sorted(shares[0] + shares[1]) == list(range(1, load.done + 1)), "a revision is missing or was given twice"
    assert min(map(len, shares)) > WRITES / 4


async def test_single_writer_beside_a_busy_replica_waits_for_few_of_its_groups(postgres_url: str) -> None:
    load = Load()
    async with PostgresStorage(postgres_url) as busy, PostgresStorage(postgres_url) as quiet:
        _, alone = await asyncio.gather(load.write(busy, "a", IN_FLIGHT), load.write(quiet, "b", 1))
    passed = [later - earlier for earlier, later in pairwise(alone)]
    assert len(passed) > WRITES / IN_FLIGHT / 8
    assert median(passed) <= 4 * IN_FLIGHT
