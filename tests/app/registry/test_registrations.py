"""How a replica merges records of registrations, in any order; and which leases are accepted."""

from dataclasses import replace
from typing import Any

import pytest

from configsvc.clock import SystemClock
from configsvc.domain.fields import checked
from configsvc.domain.instances import HEALTHY, UNHEALTHY, instance_ref
from configsvc.domain.limits import Limits
from configsvc.domain.registrations import Registration, validate
from configsvc.errors import InvalidInput, Unavailable
from configsvc.storage.port import RecordQuery
from configsvc.storage.sqlite.storage import SqliteStorage
from tests.app.registry.world import ME, World, registration


class AwayReader:
    """The storage, whose pages can't be read while it is away."""

    def __init__(self, storage: SqliteStorage) -> None:
        self._storage = storage
        self.is_away = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    async def page(self, query: RecordQuery) -> Any:
        if self.is_away:
            raise Unavailable("away", "STORAGE_UNAVAILABLE")
        return await self._storage.page(query)


async def test_service_is_not_answered_from_the_part_that_the_log_has_told(world: World) -> None:
    """A replica that starts hears of changes before it has read the registrations."""
    async with world.replica("a") as first:
        for name in ("one", "two"):
            await first.directory.register(registration(name), ME)
        reader: Any = AwayReader(world.storage)
        async with world.replica("b", reader=reader) as second:
            await first.directory.register(registration("one", weight=2), ME)
            while second.registrations.get(instance_ref("svc", "one")) is None:
                await SystemClock().sleep(0.001)
            with pytest.raises(Unavailable, match="not been read"):
                await second.discovery.discover("svc")
            reader.is_away = False
            await second.registrations.wait_loaded()
            found = (await second.discovery.discover("svc")).instances
            assert [instance.instance_id for instance in found] == ["one", "two"]


async def test_older_or_equally_old_record_is_ignored(world: World) -> None:
    """A lost claim brings the winner's record, and the log may have delivered a newer one already."""
    async with world.replica("a") as replica:
        await replica.directory.register(registration(weight=1), ME)
        older = replica.registrations.get(instance_ref("svc", "one"))
        await replica.directory.register(registration(weight=2), ME)
        newest = replica.registrations.get(instance_ref("svc", "one"))
        assert older is not None
        assert newest is not None
        equal = replace(newest, body={**newest.body, "weight": 3})
        for late in (older, equal):
            replica.registrations.merge(late)
            (known,) = (await replica.discovery.discover("svc")).instances
            assert (known.weight, known.revision) == (2, newest.revision)


async def test_change_that_the_log_delivers_after_an_own_removal_is_ignored(world: World) -> None:
    """An own write is applied when it returns. The log may deliver earlier changes later."""
    async with world.replica("a", poll_seconds=1e6) as replica:
        await replica.directory.register(registration(), ME)
        await replica.directory.deregister("svc", "one", ME)
        put, removal = await world.storage.read((await world.storage.state()).head - 2, 10)
        replica.log_follower.apply([put])
        assert replica.registrations.services == ()
        replica.log_follower.apply([removal])
        again = (await replica.directory.register(registration(), ME)).value
        assert [i.instance_id for i in (await replica.discovery.discover("svc")).instances] == [again.instance_id]


async def test_missed_incarnation_starts_with_clean_state(world: World) -> None:
    """It left and came back between two reads of the store, so the replica never saw that it had left."""
    async with world.replica("a") as replica:
        await replica.directory.register(registration(health_check_url="http://one:1/", lease_ttl_seconds=3600), ME)
        world.probe.is_healthy = False
        for _ in range(3):
            await replica.service_check.check("svc")
        record = replica.registrations.get(instance_ref("svc", "one"))
        assert record is not None
        assert record.body["status"] == UNHEALTHY
        body = {**record.body, "status": HEALTHY, "incarnation": record.version + 2, "generation": record.version + 2}
        replica.registrations.merge(
            replace(record, version=record.version + 2, revision=record.revision + 2, body=body)
        )
        for _ in range(2):
            await replica.service_check.check("svc")
        (known,) = (await replica.discovery.service("svc")).instances
        assert known.status == HEALTHY, "two of three failures, counted since its registration"


@pytest.mark.parametrize("ttl", [4, -1, 86_401])
def test_lease_beyond_the_limits_is_refused(ttl: int) -> None:
    with pytest.raises(InvalidInput, match="lease_ttl_seconds: must be 5 to 86400"), checked(Limits()) as fields:
        validate(fields, Registration("svc", "http://h:1", lease_ttl_seconds=ttl))


@pytest.mark.parametrize("ttl", [0, 5, 86_400])
def test_lease_within_the_limits_is_accepted(ttl: int) -> None:
    with checked(Limits()) as fields:
        validate(fields, Registration("svc", "http://h:1", lease_ttl_seconds=ttl))
