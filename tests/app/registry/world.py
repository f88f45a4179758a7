"""Replicas on a clock that the test moves, over the real SQLite storage and the real local registry."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from configsvc.app.changelog.tail import LogTail
from configsvc.app.fallback_cache import NO_FALLBACK_CACHE
from configsvc.app.registry.assembly import RegistryOptions, build_registry
from configsvc.app.registry.health_checks.checks import Thresholds
from configsvc.app.registry.leases.leases import SWEEP_SECONDS
from configsvc.app.registry.service_registry import ServiceRegistry
from configsvc.bus.local import LocalBus
from configsvc.clock import SystemClock
from configsvc.domain.limits import Limits
from configsvc.domain.records import Author
from configsvc.domain.registrations import Registration
from configsvc.probes.port import ProbeFailedError
from configsvc.registry.local import LocalRegistry, LocalRegistryClient
from configsvc.registry.port import ServiceRegistryClient
from configsvc.storage.port import Reader
from configsvc.storage.sqlite.storage import SqliteStorage
from configsvc.tasks import Supervisor

ME = Author("tester", "", "", datetime(2025, 1, 1, tzinfo=UTC))
OPTIONS = RegistryOptions(
    limits=Limits(),
    thresholds=Thresholds(1, 3),
    check_interval_seconds=1e6,
    check_timeout_seconds=0,
    default_ttl_seconds=30,
    stale_seconds=60,
)


class HandClock(SystemClock):
    """A clock whose monotonic time only `forward` moves. Sleeps are real, and cut short."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.naps: Counter[float] = Counter()

    def monotonic(self) -> float:
        return self.seconds

    def forward(self, seconds: float) -> None:
        self.seconds += seconds

    async def sleep(self, seconds: float) -> None:
        self.naps[seconds] += 1
        await super().sleep(min(seconds, 0.001))


class Switch:
    """A probe whose result the test sets."""

    is_healthy = True

    async def check(self, url: str) -> None:
        if not self.is_healthy:
            raise ProbeFailedError("switched off")


@dataclass
class World:
    clock: HandClock
    probe: Switch
    storage: SqliteStorage
    registry: LocalRegistry
    sessions: dict[str, LocalRegistryClient] = field(default_factory=dict)

    async def pass_time(self, seconds: float) -> None:
        """Moves the clock in steps of half a second, and lets every replica sweep its leases after each step."""
        for _ in range(round(seconds / SWEEP_SECONDS)):
            self.clock.forward(SWEEP_SECONDS)
            # Enough sleeps for each replica to begin and end a sweep after this step.
            enough = self.clock.naps[SWEEP_SECONDS] + 2 * len(self.registry.sessions) + 1
            while self.registry.sessions and self.clock.naps[SWEEP_SECONDS] < enough:
                await SystemClock().sleep(0.0005)

    @asynccontextmanager
    async def replica(
        self,
        replica_id: str,
        *,
        registry: LocalRegistry | None = None,
        reader: Reader | None = None,
        poll_seconds: float = 0.02,
        client: ServiceRegistryClient | None = None,
    ) -> AsyncIterator[ServiceRegistry]:
        """Runs a replica. `client`: an open session, in place of one of the local registry."""
        async with AsyncExitStack() as stack:
            local = LocalRegistryClient(registry or self.registry, replica_id)
            session: ServiceRegistryClient = local
            if client is None:
                self.sessions[replica_id] = await stack.enter_async_context(local)
            else:
                session = client
            bus = await stack.enter_async_context(LocalBus())
            tail = await stack.enter_async_context(
                LogTail(log=self.storage, bus=bus, clock=SystemClock(), poll_seconds=poll_seconds)
            )
            supervisor = Supervisor(self.clock)
            built = build_registry(
                OPTIONS,
                writer=self.storage,
                reader=reader or self.storage,
                heartbeats=self.storage,
                registry=session,
                probe=self.probe,
                log=tail,
                clock=self.clock,
                fallback_cache=NO_FALLBACK_CACHE,
                supervisor=supervisor,
            )
            tail.subscribe(built.log_follower)
            await stack.enter_async_context(built.running(supervisor))
            yield built


def registration(name: str = "one", **more: Any) -> Registration:
    return Registration("svc", f"http://{name}:1", instance_id=name, **more)


async def gone(replica: ServiceRegistry, instance_id: str) -> None:
    """Returns when the lease sweep has removed the instance."""
    while any(i.instance_id == instance_id for i in (await replica.discovery.discover("svc")).instances):
        await SystemClock().sleep(0.001)
