"""Self registration: each replica registers itself in its own registry, and keeps its lease."""

import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from configsvc.app.registry.directory import Directory
from configsvc.clock import Clock
from configsvc.domain.records import Author
from configsvc.domain.registrations import Registration
from configsvc.errors import ServiceError
from configsvc.tasks import Supervisor

logger = logging.getLogger(__name__)

OWN_SERVICE = "configsvc"


@asynccontextmanager
async def self_registration(
    directory: Directory,
    clock: Clock,
    supervisor: Supervisor,
    *,
    instance_id: str,
    service_url: str,
    lease_ttl_seconds: float,
) -> AsyncIterator[None]:
    """Keeps this replica registered while the context is open."""
    registration = Registration(
        service_name=OWN_SERVICE,
        instance_id=instance_id,
        service_url=service_url,
    )

    def author(reason: str) -> Author:
        return Author(OWN_SERVICE, reason, "", clock.now())

    async def register(reason: str) -> None:
        try:
            await directory.register(registration, author(reason))
        except ServiceError as error:
            logger.warning("this replica could not register itself; it tries again: %s", error)

    async def keep_registered() -> None:
        while True:
            await clock.sleep(lease_ttl_seconds / 3)
            await register("still here")

    await register("started")
    task = supervisor.supervise("own registration", keep_registered)
    try:
        yield
    finally:
        await task.stop()
        with contextlib.suppress(ServiceError):
            await directory.deregister(OWN_SERVICE, instance_id, author("stopped"))
