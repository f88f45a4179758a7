"""The lease of one instance, as its owner keeps it in memory."""

from dataclasses import dataclass
from datetime import datetime

from configsvc.app.registry.leases.lease_clock import LeaseInstant
from configsvc.domain.instances import Incarnation


@dataclass(slots=True, eq=False)
class Lease:
    """The lease of an instance that this replica owns."""

    incarnation: Incarnation
    ttl_seconds: float
    # When this replica became the owner.
    owned_since: LeaseInstant
    # The last heartbeat, and its wall time, which is shown to people.
    last_heartbeat: LeaseInstant | None = None
    last_heartbeat_at: datetime | None = None
    # When the instance last got a fresh lease without a heartbeat.
    granted: LeaseInstant | None = None
    # The last heartbeat that the store knows.
    recorded: LeaseInstant | None = None
    # Whether the store's knowledge of this instance was read.
    is_loaded: bool = False
