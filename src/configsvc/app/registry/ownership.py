"""Which replica owns an instance, and what the registry shows of it.

An instance's node in the registry is the projection of its record, made by its owner. The instances of a replica that is
gone are orphans: the survivors claim them, each by compare-and-set on owner and generation. A replica that stops gives
its own away first. Nodes of other programs are shown as they are.
"""

import asyncio
import itertools
import logging
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Sequence

from configsvc.app.registry.foreign_instances import ForeignInstances
from configsvc.app.registry.reconciler import Reconciler
from configsvc.app.registry.registrations import Registrations
from configsvc.clock import Clock
from configsvc.domain import instances
from configsvc.domain.records import Action, Mutation, Record, Ref, View
from configsvc.errors import FailedPrecondition, ServiceError
from configsvc.registry.port import Node, ServiceRegistryClient
from configsvc.tasks import BackgroundTasks, SupervisedTask, Supervisor

logger = logging.getLogger(__name__)

# Until a survivor claims what another was to claim, and has not; and between two tries.
ORPHANED_SECONDS = 1.0
# Changes of owner under way at the same time; they share transactions.
MOVED_TOGETHER = 128
# How long a stopping replica takes to give away what it owns.
HAND_ON_SECONDS = 5.0
# Of that, how long an heir has to show what it was given. One that died a moment ago still counts as live.
HEIR_SECONDS, HEIR_LOOK_SECONDS = 1.0, 0.05


class Ownership:
    """What this replica owns, in the registry. A `Follower` of the registrations."""

    def __init__(
        self,
        *,
        registrations: Registrations,
        registry: ServiceRegistryClient,
        clock: Clock,
        background: BackgroundTasks,
        supervisor: Supervisor,
        grant: Callable[[Sequence[Record]], Awaitable[None]],
    ) -> None:
        self._registrations = registrations
        self._grant = grant
        self._registry = registry
        self._clock = clock
        self._background = background
        self._supervisor = supervisor
        self._me = registry.replica_id
        self.foreign = ForeignInstances(clock)
        self.news = Reconciler(
            registry=registry,
            clock=clock,
            look=self._look,
            adopt=self._adopt,
            known=lambda: self.foreign.services,
            connected=self._connected,
        )
        self._projections: dict[Ref, asyncio.Task[None]] = {}
        self._adopting: SupervisedTask | None = None
        self.live = frozenset({self._me})

    def taken(self, record: Record, before: Record | None) -> None:
        """See `Follower`."""
        if self._registrations.owns(record):
            self._project(record.ref)

    def dropped(self, record: Record) -> None:
        """See `Follower`."""
        if self._registrations.owns(record):
            self._project(record.ref)

    async def shown(self, ref: Ref) -> None:
        """Returns when the registry shows what is on record of an instance of this replica's, or can't be reached."""
        if (projection := self._projections.get(ref)) is not None:
            await asyncio.shield(projection)

    def _connected(self) -> None:
        for record in self._registrations.owned():
            self._project(record.ref)

    async def retract(self) -> None:
        """Takes back the nodes of instances that are another's, or nobody's, on record.

        Where owners change one by one, the next puts its node in the place of this one. After a restore the record says
        who the owner was, and that one's node may have a lower generation than the one that is shown.
        """
        try:
            for service in await self._registry.services():
                for node in await self._registry.nodes(service):
                    ref = instances.instance_ref(service, node.instance_id)
                    if node.owner == self._me and not self._registrations.owns(self._registrations.get(ref)):
                        await self._registry.remove(service, node.instance_id)
        except ServiceError as error:
            logger.warning("nodes that are not this replica's any more can't be taken back: %s", error)

    async def hand_on(self) -> None:
        """Gives what this replica owns to the others that live, and waits a moment until they show it."""
        try:
            async with asyncio.timeout(HAND_ON_SECONDS):
                heirs = await self._registry.replicas() - {self._me}
                if not heirs:
                    # The next replica that starts adopts them.
                    return
                await self._grant(self._registrations.owned())
                given: Collection[Record] = self._registrations.owned()
                while given and heirs:
                    chosen = itertools.cycle(random.sample(sorted(heirs), len(heirs)))
                    await self._all(self._move(r, next(chosen), f"replica '{self._me}' stops") for r in given)
                    given = await self._not_shown_by_heirs([record.ref for record in given])
                    heirs -= {record.body["owner"] for record in given}
                if given:
                    logger.warning(
                        "nobody took %d of the instances that were handed on; whoever lives adopts them", len(given)
                    )
        except (ServiceError, TimeoutError) as error:
            logger.warning("not all instances were handed on; the others adopt them: %r", error)

    async def _not_shown_by_heirs(self, refs: Sequence[Ref]) -> list[Record]:
        """Those that this replica still shows after a moment; nobody may see them go."""
        until = self._clock.monotonic() + HEIR_SECONDS
        left: dict[str, set[Ref]] = defaultdict(set)
        for ref in refs:
            left[ref.service].add(ref)
        while True:
            for service, named in left.items():
                mine = {node.instance_id for node in await self._registry.nodes(service) if node.owner == self._me}
                left[service] = {ref for ref in named if ref.key in mine}
            if not any(left.values()) or self._clock.monotonic() >= until:
                break
            await self._clock.sleep(HEIR_LOOK_SECONDS)
        found = [self._registrations.get(ref) for named in left.values() for ref in named]
        return [record for record in found if record is not None]

    async def _adopt(self) -> None:
        """Claims the instances whose replica is gone, and grants each one fresh lease.

        Survivors meet the same orphans at the same time: each first claims its share, and a moment later what is left.
        """
        self.live = await self._registry.replicas()
        if not self._registrations.is_loaded:
            # Copies may be old. When all are read, this is done again.
            return
        orphans = self._orphans()
        if orphans and self._adopting is None:
            self._adopting = self._supervisor.supervise("adoption", self._adopt_rest, may_return=True)
            self._adopting.add_done_callback(self._adopted)
        survivors = {self._me, *self.live}
        await self._claim([orphan for orphan in orphans if instances.heir_of(orphan.ref, survivors) == self._me])

    async def _adopt_rest(self) -> None:
        """Tries until no orphan is left: another replica has not done its share, or the store was away."""
        while True:
            await self._clock.sleep(ORPHANED_SECONDS)
            try:
                self.live = await self._registry.replicas()
                await self._claim(self._orphans())
            except ServiceError as error:
                logger.warning("not all orphans could be claimed; this is tried again: %s", error)
            else:
                return

    def _adopted(self, _: SupervisedTask) -> None:
        self._adopting = None

    async def stop(self) -> None:
        """Stops adopting."""
        if self._adopting is not None:
            await self._adopting.stop()

    def _orphans(self) -> list[Record]:
        return [record for record in self._registrations.all() if record.body["owner"] not in self.live]

    async def _claim(self, orphans: list[Record]) -> None:
        await self._grant(orphans)
        random.shuffle(orphans)
        await self._all(self._move(r, self._me, f"replica '{r.body['owner']}' is gone") for r in orphans)

    async def _move(self, record: Record, heir: str, reason: str) -> None:
        """Makes another replica the owner, where owner and generation still are those of `record`."""
        held = (record.body["owner"], record.body["generation"])
        seen: list[Record] = []

        def decide(view: View) -> Sequence[Mutation]:
            current = view.get(record.ref)
            if current is None:
                return ()
            if (current.body["owner"], current.body["generation"]) != held:
                seen.append(current)
                return ()
            return (instances.restated(current, Action.UPDATE, owner=heir, generation=held[1] + 1),)

        await self._registrations.own_write(record.ref, "registry", reason, decide)
        for current in seen:
            # Another was quicker; the log will say so too.
            self._registrations.take(current)

    async def _all(self, moves: Iterable[Coroutine[None, None, None]]) -> None:
        """All of them, some at a time. Raises the first error of those that failed together."""
        waiting = iter(moves)
        while together := tuple(itertools.islice(waiting, MOVED_TOGETHER)):
            for failed in await asyncio.gather(*together, return_exceptions=True):
                if isinstance(failed, BaseException):
                    raise failed

    async def _look(self, service: str) -> None:
        """Reads a service's nodes: foreign ones are shown as they are, own ones that are missing are made again."""
        nodes = await self._registry.nodes(service)
        self.foreign.take(service, nodes)
        shown = {node.instance_id: node for node in nodes}
        for record in self._registrations.owned(service):
            node = shown.get(record.ref.key)
            if node is None or (node.owner == self._me and node != _node(record)):
                self._project(record.ref)
        if self._registrations.is_loaded:
            for node in nodes:
                ref = instances.instance_ref(service, node.instance_id)
                if node.owner == self._me and self._registrations.get(ref) is None:
                    # It was removed from the records while the registry was away.
                    self._project(ref)

    def _project(self, ref: Ref) -> None:
        """Makes the registry show what this replica's records say of an instance, soon. One at a time for each."""
        if ref not in self._projections:
            task = self._background.start(self._projected(ref))
            self._projections[ref] = task
            task.add_done_callback(lambda _: self._projections.pop(ref, None))

    async def _projected(self, ref: Ref) -> None:
        while True:
            record = self._registrations.get(ref)
            try:
                if record is None:
                    await self._registry.remove(ref.service, ref.key)
                elif self._registrations.owns(record):
                    await self._registry.put(_node(record))
                # Another's: it puts its node in the place of this one, so that there is none without.
            except ServiceError as error:
                # The record is the truth; this is made good when the registry is back, or what is in its way has gone.
                logger.warning("the registry does not show instance '%s' as it is: %s", ref.key, error)
                if not isinstance(error, FailedPrecondition):
                    self.news.again(ref.service)
                return
            if self._registrations.get(ref) is record:
                return


def _node(record: Record) -> Node:
    payload = {name: value for name, value in record.body.items() if name not in ("owner", "generation", "incarnation")}
    payload["registered_at"] = record.created_at.isoformat()
    return Node(record.ref.service, record.ref.key, record.body["owner"], record.body["generation"], payload)
