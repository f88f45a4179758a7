"""One target is not looked at more than so often, however many instances are registered there, and under which names."""

import asyncio
from collections.abc import Callable

import pytest

from configsvc.probes.network import RESOLVED_TOGETHER, AddressFilter
from configsvc.probes.port import ProbeBusyError
from configsvc.probes.targets import HOLD_SECONDS, TOGETHER, Targets
from tests.app.fake_clock import FakeClock
from tests.probes.conftest import LeaseClock, probe
from tests.probes.test_network import hold


async def visit(targets: Targets, address: str = "10.0.0.1", port: int = 80, seconds: float = 0.0) -> bool:
    try:
        async with targets.visited(address, port):
            await asyncio.sleep(seconds)
    except ProbeBusyError:
        return False
    return True


async def test_a_quick_target_is_looked_at_at_a_bounded_rate() -> None:
    clock = FakeClock()
    targets, looks = Targets(clock), 0
    for _ in range(1_000):
        looks += await visit(targets)
        await clock.advance(0.01)
    assert looks <= 10 / HOLD_SECONDS * TOGETHER + TOGETHER
    assert await visit(targets, "10.0.0.2")
    assert await visit(targets, port=81)


async def test_what_is_remembered_of_targets_is_bounded() -> None:
    clock = FakeClock()
    targets = Targets(clock)
    for number in range(2_000):
        assert await visit(targets, port=number)
        await clock.advance(0.1)
    assert len(targets._held) <= HOLD_SECONDS / 0.1 + 2
    assert len(targets._looking) <= HOLD_SECONDS / 0.1 + 2


@pytest.mark.parametrize("scheme", ["http", "tcp", "grpc"])
async def test_three_hundred_instances_at_one_target_are_not_looked_at_together(
    listening: LeaseClock, resolves: Callable[..., None], scheme: str
) -> None:
    """By its address, and by names that all have it."""
    port = await listening(hold)
    names = [f"i{number}.example" for number in range(150)]
    for name in names:
        resolves(name, "127.0.0.1")
    # Its clock stands still: however slow this machine is, no place becomes free meanwhile, nor does a look-up time out.
    looked = probe(timeout_seconds=3, targets=Targets(FakeClock()))
    results = await asyncio.gather(
        *(looked.check(f"{scheme}://{host}:{port}/{host}") for host in [*names, *["127.0.0.1"] * 150]),
        return_exceptions=True,
    )
    assert sum(isinstance(result, ProbeBusyError) for result in results) >= 300 - TOGETHER
    # gRPC may try a connection again within one look.
    assert listening.connections <= TOGETHER * (2 if scheme == "grpc" else 1)


async def test_names_that_never_resolve_do_not_hold_up_those_that_did(
    resolves: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    resolves("known.example", "127.0.0.1")
    addresses, looked = AddressFilter(), []

    async def look(address: str, of_how_many: int) -> None:
        looked.append(address)

    await addresses.reach("known.example", 1, look)
    never = asyncio.get_running_loop().create_future()

    async def tarpit(*_: object, **__: object) -> object:
        return await never

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", tarpit)
    stuck = [asyncio.create_task(addresses.reach(f"t{n}.example", 1, look)) for n in range(RESOLVED_TOGETHER)]
    await asyncio.sleep(0)
    for task in stuck:
        task.cancel()
    await asyncio.gather(*stuck, return_exceptions=True)
    await addresses.reach("known.example", 1, look)
    assert looked == ["127.0.0.1"] * 2
    with pytest.raises(ProbeBusyError):
        await addresses.reach("new.example", 1, look)
    assert len(addresses._resolving) == RESOLVED_TOGETHER, "nothing waits"
    never.set_result([])
