"""What a replica takes in of registrations, in whatever order it hears of them; and which leases are accepted."""

from dataclasses import replace

import pytest

from configsvc.domain.fields import checked
from configsvc.domain.instances import HEALTHY, UNHEALTHY, instance_ref
from configsvc.domain.limits import Limits
from configsvc.domain.registrations import Registration, validate
from configsvc.errors import InvalidInput
from tests.app.registry.world import ME, World, registration


async def test_an_older_or_an_equal_record_changes_nothing(world: World) -> None:
    """Mutant 3: a claim that another replica lost brings the winner's record, which the log may have overtaken."""
    async with world.replica("a") as directory:
        await directory.directory.register(registration(weight=1), ME)
        older = directory.registrations.get(instance_ref("svc", "one"))
        await directory.directory.register(registration(weight=2), ME)
        newest = directory.registrations.get(instance_ref("svc", "one"))
        assert older is not None
        assert newest is not None
        equal = replace(newest, body={**newest.body, "weight": 3})
        for late in (older, equal):
            directory.registrations.merge(late)
            (known,) = (await directory.discovery.discover("svc")).instances
            assert (known.weight, known.revision) == (2, newest.revision)


async def test_a_later_incarnation_that_was_missed_starts_clean(world: World) -> None:
    """It left and came back between two readings of the store: the replica never heard that it had left."""
    async with world.replica("a") as directory:
        await directory.directory.register(registration(health_check_url="http://one:1/", lease_ttl_seconds=3600), ME)
        world.probe.well = False
        for _ in range(3):
            await directory.service_check.check("svc")
        record = directory.registrations.get(instance_ref("svc", "one"))
        assert record is not None
        assert record.body["status"] == UNHEALTHY
        body = {**record.body, "status": HEALTHY, "incarnation": record.version + 2, "generation": record.version + 2}
        directory.registrations.merge(
            replace(record, version=record.version + 2, revision=record.revision + 2, body=body)
        )
        for _ in range(2):
            await directory.service_check.check("svc")
        (known,) = (await directory.discovery.service("svc")).instances
        assert known.status == HEALTHY, "two of three failures, all its own"


@pytest.mark.parametrize("ttl", [4, -1, 86_401])
def test_leases_beyond_the_limits_are_refused(ttl: int) -> None:
    """Mutant 7."""
    with pytest.raises(InvalidInput, match="lease_ttl_seconds: must be 5 to 86400"), checked(Limits()) as fields:
        validate(fields, Registration("svc", "http://h:1", lease_ttl_seconds=ttl))


@pytest.mark.parametrize("ttl", [0, 5, 86_400])
def test_leases_within_the_limits_are_accepted(ttl: int) -> None:
    with checked(Limits()) as fields:
        validate(fields, Registration("svc", "http://h:1", lease_ttl_seconds=ttl))
