"""The rate of checks of one target is bounded, however many instances are registered there, and under which names."""

import asyncio
from collections.abc import Callable

import pytest

from configsvc.probes.address_filter import AddressFilter
from configsvc.probes.port import ProbeBusyError
from configsvc.probes.resolver import CONCURRENT_LOOKUPS
from configsvc.probes.targets import CHECKS_PER_TARGET, SLOT_SECONDS, TargetLimiter
from tests.app.fake_clock import FakeClock
from tests.probes.conftest import Servers, probe
from tests.probes.test_network import hold


async def checks(limiter: TargetLimiter, address: str = "10.0.0.1", port: int = 80, seconds: float = 0.0) -> bool:
    try:
        async with limiter.slot(address, port):
            await asyncio.sleep(seconds)
    except ProbeBusyError:
        return False
    return True


async def test_checks_of_one_target_have_a_bounded_rate() -> None:
    clock = FakeClock()
    limiter, count = TargetLimiter(clock), 0
    for _ in range(1_000):
        count += await checks(limiter)
        await clock.advance(0.01)
    assert count <= 10 / SLOT_SECONDS * CHECKS_PER_TARGET + CHECKS_PER_TARGET
    assert await checks(limiter, "10.0.0.2")
    assert await checks(limiter, port=81)


async def test_memory_for_targets_is_bounded() -> None:
    clock = FakeClock()
    limiter = TargetLimiter(clock)
    for number in range(2_000):
        assert await checks(limiter, port=number)
        await clock.advance(0.1)
    assert len(limiter._held) <= SLOT_SECONDS / 0.1 + 2
    assert len(limiter._running) <= SLOT_SECONDS / 0.1 + 2


@pytest.mark.parametrize("scheme", ["http", "tcp", "grpc"])
async def test_checks_of_300_instances_at_one_target_do_not_run_together(
    serve: Servers, resolve_to: Callable[..., None], scheme: str
) -> None:
    """They are registered by its address, and by names that resolve to it."""
    port = await serve(hold)
    names = [f"i{number}.example" for number in range(150)]
    for name in names:
        resolve_to(name, "127.0.0.1")
    # The clock stands still, so no slot becomes free during the test, however slow the machine is.
    checked = probe(timeout_seconds=3, limiter=TargetLimiter(FakeClock()))
    results = await asyncio.gather(
        *(checked.check(f"{scheme}://{host}:{port}/{host}") for host in [*names, *["127.0.0.1"] * 150]),
        return_exceptions=True,
    )
    assert sum(isinstance(result, ProbeBusyError) for result in results) >= 300 - CHECKS_PER_TARGET
    # gRPC may try a connection again within one check.
    assert serve.connections <= CHECKS_PER_TARGET * (2 if scheme == "grpc" else 1)


async def test_names_that_never_resolve_do_not_delay_known_names(
    resolve_to: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve_to("known.example", "127.0.0.1")
    addresses, tried = AddressFilter(), []

    async def attempt(address: str, address_count: int) -> None:
        tried.append(address)

    await addresses.connect("known.example", 1, attempt)
    never = asyncio.get_running_loop().create_future()

    async def tarpit(*_: object, **__: object) -> object:
        return await never

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", tarpit)
    stuck = [asyncio.create_task(addresses.connect(f"t{n}.example", 1, attempt)) for n in range(CONCURRENT_LOOKUPS)]
    await asyncio.sleep(0)
    for task in stuck:
        task.cancel()
    await asyncio.gather(*stuck, return_exceptions=True)
    await addresses.connect("known.example", 1, attempt)
    assert tried == ["127.0.0.1"] * 2
    with pytest.raises(ProbeBusyError):
        await addresses.connect("new.example", 1, attempt)
    assert len(addresses._resolver._running) == CONCURRENT_LOOKUPS, "nothing waits"
    never.set_result([])
