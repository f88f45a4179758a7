"""Adoption: if a replica is gone, its instances are orphans, and the surviving replicas claim them."""

import logging
import random

from configsvc.app.registry.leases.leases import Leases
from configsvc.app.registry.ownership.transfer import Transfer, transfer_all
from configsvc.app.registry.registrations import Registrations
from configsvc.clock import Clock
from configsvc.domain.instances import successor_of
from configsvc.domain.records import Record
from configsvc.errors import ServiceError
from configsvc.registry.port import ServiceRegistryClient
from configsvc.tasks import SupervisedTask, Supervisor

logger = logging.getLogger(__name__)

# How long a survivor waits before it claims the orphans of another survivor's share, and the pause between two attempts.
ADOPTION_SECONDS = 1.0


class Adoption:
    """Claims the instances of replicas that are gone. `live`: the replicas that are live, as the registry last said."""

    def __init__(
        self,
        *,
        registrations: Registrations,
        leases: Leases,
        registry: ServiceRegistryClient,
        clock: Clock,
        supervisor: Supervisor,
    ) -> None:
        self._registrations = registrations
        self._leases = leases
        self._registry = registry
        self._clock = clock
        self._supervisor = supervisor
        self._remaining: SupervisedTask | None = None
        self.live = frozenset({registrations.replica_id})

    async def adopt(self) -> None:
        """Claims this replica's share of the orphans, and grants each one fresh lease. Raises `Unavailable`.

        All survivors find the same orphans at the same time. Each claims its own share at once, and a moment later
        whatever is left.
        """
        self.live = await self._registry.replicas()
        if not self._registrations.is_loaded:
            # Copies from the fallback cache may be old. This is called again when the registrations are loaded.
            return
        orphans = self._orphans()
        if orphans and self._remaining is None:
            self._remaining = self._supervisor.supervise("adoption", self._adopt_remaining, may_return=True)
            self._remaining.add_done_callback(self._on_end)
        me = self._registrations.replica_id
        survivors = {me, *self.live}
        await self._claim([orphan for orphan in orphans if successor_of(orphan.ref, survivors) == me])

    async def close(self) -> None:
        """Stops claiming."""
        if self._remaining is not None:
            await self._remaining.stop()

    async def _adopt_remaining(self) -> None:
        """Claims until no orphan is left: another survivor did not claim its share, or the store was down."""
        while True:
            await self._clock.sleep(ADOPTION_SECONDS)
            try:
                self.live = await self._registry.replicas()
                await self._claim(self._orphans())
            except ServiceError as error:
                logger.warning("not all orphans could be claimed; this is tried again: %s", error)
            else:
                return

    def _on_end(self, _: SupervisedTask) -> None:
        self._remaining = None

    def _orphans(self) -> list[Record]:
        return [record for record in self._registrations.all() if record.body["owner"] not in self.live]

    async def _claim(self, orphans: list[Record]) -> None:
        await self._leases.grant(orphans)
        # Survivors that claim the same orphans in different orders get in each other's way less. The instances of a service
        # stay together, so that their nodes are made together, and the list of the service changes once.
        random.shuffle(orphans)
        place = {orphan.ref.service: random.random() for orphan in orphans}
        orphans.sort(key=lambda orphan: place[orphan.ref.service])
        me = self._registrations.replica_id
        await transfer_all(
            self._registrations,
            (Transfer(orphan, me, f"replica '{orphan.body['owner']}' is gone") for orphan in orphans),
        )
