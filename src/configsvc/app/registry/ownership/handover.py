"""Handover: a replica that stops transfers its instances to the others that are live."""

import asyncio
import itertools
import logging
import random
from collections import defaultdict
from collections.abc import Collection, Sequence

from configsvc.app.registry.leases.leases import Leases
from configsvc.app.registry.ownership.transfer import Transfer, transfer_all
from configsvc.app.registry.registrations import Registrations
from configsvc.clock import Clock
from configsvc.domain.records import Record, Ref
from configsvc.errors import ServiceError
from configsvc.registry.port import ServiceRegistryClient

logger = logging.getLogger(__name__)

# How long a stopping replica takes for it.
HANDOVER_SECONDS = 5.0
# How long a successor has to show its instances in the registry, and how often that is looked up. A replica that died a
# moment ago still counts as live.
SUCCESSOR_SECONDS, SUCCESSOR_POLL_SECONDS = 1.0, 0.05


class Handover:
    """Transfers this replica's instances, and waits until their new owners show them in the registry."""

    def __init__(
        self, *, registrations: Registrations, leases: Leases, registry: ServiceRegistryClient, clock: Clock
    ) -> None:
        self._registrations = registrations
        self._leases = leases
        self._registry = registry
        self._clock = clock
        self._me = registry.replica_id

    async def hand_over(self) -> None:
        """Hands over what can be handed over in time. The other replicas adopt the rest."""
        try:
            async with asyncio.timeout(HANDOVER_SECONDS):
                successors = await self._registry.replicas() - {self._me}
                if not successors:
                    # The next replica that starts adopts them.
                    return
                await self._leases.grant(self._registrations.owned())
                left: Collection[Record] = self._registrations.owned()
                while left and successors:
                    chosen = itertools.cycle(random.sample(sorted(successors), len(successors)))
                    reason = f"replica '{self._me}' stops"
                    await transfer_all(self._registrations, (Transfer(record, next(chosen), reason) for record in left))
                    left = await self._not_shown_by_successors([record.ref for record in left])
                    successors -= {record.body["owner"] for record in left}
                if left:
                    logger.warning("no replica took over %d of the instances; the others adopt them", len(left))
        except (ServiceError, TimeoutError) as error:
            logger.warning("not all instances were handed over; the others adopt them: %r", error)

    async def _not_shown_by_successors(self, refs: Sequence[Ref]) -> list[Record]:
        """The instances whose node is still this replica's after a moment. If it stopped now, their nodes would vanish."""
        until = self._clock.monotonic() + SUCCESSOR_SECONDS
        left: dict[str, set[Ref]] = defaultdict(set)
        for ref in refs:
            left[ref.service].add(ref)
        while True:
            for service, waiting in left.items():
                mine = {node.instance_id for node in await self._registry.nodes(service) if node.owner == self._me}
                left[service] = {ref for ref in waiting if ref.key in mine}
            if not any(left.values()) or self._clock.monotonic() >= until:
                break
            await self._clock.sleep(SUCCESSOR_POLL_SECONDS)
        records = [self._registrations.get(ref) for waiting in left.values() for ref in waiting]
        return [record for record in records if record is not None]
