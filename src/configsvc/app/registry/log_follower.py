"""Applies the change log to the registrations, and reads all of them again if the log can't say what has changed."""

from collections.abc import Sequence

from configsvc.app.registry.ownership.projection import NodeProjection
from configsvc.app.registry.ownership.reconciler import Reconciler
from configsvc.app.registry.registrations import Registrations
from configsvc.domain.records import Change
from configsvc.tasks import SupervisedTask, Supervisor


class RegistrationLogFollower:
    """The `LogFollower` of the service registry."""

    def __init__(
        self,
        *,
        registrations: Registrations,
        projection: NodeProjection,
        reconciler: Reconciler,
        supervisor: Supervisor,
    ) -> None:
        self._registrations = registrations
        self._projection = projection
        self._reconciler = reconciler
        self._supervisor = supervisor
        self._reloading: SupervisedTask | None = None

    def apply(self, changes: Sequence[Change]) -> None:
        """Applies changes, in order."""
        self._registrations.apply(changes)

    def reset(self, revision: int) -> None:
        """The log can't say what changed up to `revision`: all registrations are read again."""
        self._registrations.mark_outdated()
        self.reload()

    def reload(self) -> None:
        """Reads all registrations soon, and again until that succeeds."""
        if self._reloading is not None:
            self._reloading.cancel()
        self._reloading = self._supervisor.supervise("registrations' reload", self._reload, may_return=True)

    async def close(self) -> None:
        """Ends a reload that is under way."""
        if self._reloading is not None:
            await self._reloading.stop()

    async def _reload(self) -> None:
        await self._registrations.reload()
        await self._projection.retract()
        self._reconciler.reconcile_all()
