"""A service's view is computed once, and again only if one of its own instances has changed."""

from configsvc.app.registry.service_registry import ServiceRegistry
from configsvc.domain.instances import Instance, ServiceSummary
from configsvc.domain.records import Record
from configsvc.domain.registrations import Registration
from configsvc.registry.port import Node
from tests.app.registry.test_projection import until
from tests.app.registry.world import ME, World, registration

FOREIGN = Node("svc", "two", "", 0, {"service_url": "http://theirs:1"})


async def show_foreign(world: World, replica: ServiceRegistry) -> None:
    """Another program shows an instance."""
    await world.sessions["a"].put(FOREIGN)
    await until(lambda: "two" in replica.foreign.of("svc"))


async def hide_foreign(world: World, replica: ServiceRegistry) -> None:
    await world.sessions["a"].remove("svc", "two")
    await until(lambda: "two" not in replica.foreign.of("svc"))


async def test_view_is_the_same_object_until_an_instance_of_the_service_changes(world: World) -> None:
    async with world.replica("a") as replica:
        await replica.directory.register(registration("one"), ME)
        seen = [replica.discovery.view("svc")]
        await replica.directory.register(Registration("other", "http://o:1"), ME)
        await replica.directory.heartbeat("svc", "one")
        assert replica.discovery.view("svc") is seen[0]
        await replica.directory.register(registration("one", weight=2), ME)
        seen.append(replica.discovery.view("svc"))
        await show_foreign(world, replica)
        seen.append(replica.discovery.view("svc"))
        await replica.directory.register(registration("three"), ME)
        seen.append(replica.discovery.view("svc"))
        await replica.directory.deregister("svc", "one", ME)
        seen.append(replica.discovery.view("svc"))
        await hide_foreign(world, replica)
        seen.append(replica.discovery.view("svc"))
        assert len({id(view) for view in seen}) == len(seen)
        names = [[member.ref.key for member in view.members] for view in seen]
        assert names == [["one"], ["one"], ["one", "two"], ["one", "three", "two"], ["three", "two"], ["three"]]
        kinds = [type(member) for member in seen[3].members]
        assert kinds == [Record, Record, Instance]


async def test_registration_hides_a_foreign_instance_of_the_same_id_from_the_view(world: World) -> None:
    async with world.replica("a") as replica:
        await show_foreign(world, replica)
        await replica.directory.register(registration("two"), ME)
        (member,) = replica.discovery.view("svc").members
        assert isinstance(member, Record)


async def test_views_of_services_without_instances_are_not_kept(world: World) -> None:
    async with world.replica("a") as replica:
        for number in range(100):
            await replica.discovery.discover(f"missing-{number}")
        await replica.directory.register(registration("one"), ME)
        assert (await replica.discovery.service("svc")).instances
        await replica.directory.deregister("svc", "one", ME)
        assert not (await replica.discovery.discover("svc")).instances
        await show_foreign(world, replica)
        assert replica.discovery.services() == (ServiceSummary("svc", 1, 1),)
        await hide_foreign(world, replica)
        assert replica.discovery._views == {}
        assert replica.discovery.services() == ()
