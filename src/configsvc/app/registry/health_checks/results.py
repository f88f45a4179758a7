"""What the result of a check does: a passed check renews the lease, and enough equal results in a row change the status."""

from configsvc.app.registry.leases.leases import Leases
from configsvc.app.registry.registrations import Registrations
from configsvc.domain.instances import HEALTHY, UNHEALTHY, Incarnation, Instance


class CheckResults:
    """Applies results to the registrations that this replica owns."""

    def __init__(self, registrations: Registrations, leases: Leases) -> None:
        self._registrations = registrations
        self._leases = leases

    async def apply(self, instance: Instance, passed: bool, is_threshold_reached: bool) -> None:
        """Applies the result of a check of `instance`. Raises `Unavailable` if a new status can't be written.

        A late result, of an earlier incarnation or another URL, does nothing.
        """
        record = self._registrations.get(instance.ref)
        if record is None or not self._registrations.owns(record):
            return
        incarnation = Incarnation.of(record)
        checked = (instance.incarnation, instance.health_check_url)
        if (incarnation.number, record.body["health_check_url"]) != checked:
            return
        if passed:
            self._leases.renew(record)
        status = HEALTHY if passed else UNHEALTHY
        if not is_threshold_reached or record.body["status"] == status:
            return
        reason = "its checks pass" if passed else "its checks fail"
        await self._registrations.set_status(
            incarnation, status, "health-check", reason, checked_url=instance.health_check_url
        )
