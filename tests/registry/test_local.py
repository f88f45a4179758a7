"""The embedded registry finds the nodes of one service without a look at those of the others."""

from collections.abc import Iterator

from configsvc.registry.local import LocalRegistry, LocalRegistryClient
from configsvc.registry.port import Node


class Counted(dict[tuple[str, str], tuple[Node, LocalRegistryClient]]):
    """The nodes. Counts how many of them are looked at."""

    looks = 0

    def __getitem__(self, key: tuple[str, str]) -> tuple[Node, LocalRegistryClient]:
        self.looks += 1
        return super().__getitem__(key)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        self.looks += len(self)
        return super().__iter__()


async def test_reading_a_service_costs_its_own_nodes() -> None:
    registry = LocalRegistry()
    registry.nodes = nodes = Counted()
    async with LocalRegistryClient(registry, "r1") as client:
        for number in range(1_000):
            await client.put(Node(f"s{number // 10}", f"i{number:04}", "r1", 1))
        nodes.looks = 0
        assert [node.instance_id for node in await client.nodes("s7")] == [f"i{number:04}" for number in range(70, 80)]
        assert nodes.looks <= 10


async def test_services_without_nodes_are_forgotten() -> None:
    registry = LocalRegistry()
    async with LocalRegistryClient(registry, "r1") as client:
        for number in range(10):
            await client.put(Node(f"s{number}", "one", "r1", 1))
            await client.remove(f"s{number}", "one")
            assert await client.nodes(f"s{number}") == []
        assert registry.ids == {}
        assert list(await client.services()) == []
