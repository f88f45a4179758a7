"""A check of all instances of a service at once, for a caller."""

import asyncio
from dataclasses import replace

from configsvc.app.registry.discovery import Discovery
from configsvc.app.registry.health_checks.checks import HealthChecks
from configsvc.domain.instances import CheckResult


class ServiceCheck:
    """Checks every instance of a service now."""

    def __init__(self, discovery: Discovery, checks: HealthChecks) -> None:
        self._discovery = discovery
        self._checks = checks

    async def check(self, service: str) -> tuple[CheckResult, ...]:
        """The results, each with the status that the instance has afterwards. Raises `NotFound` without instances."""
        listing = await self._discovery.service(service)
        results = await asyncio.gather(*(self._checks.check(instance) for instance in listing.instances))
        statuses = {instance.instance_id: instance.status for instance in self._discovery.instances(service)}
        return tuple(replace(result, status=statuses.get(result.instance_id, result.status)) for result in results)
