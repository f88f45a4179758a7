"""The writing half of the service registry: register, deregister, heartbeat.

A change of status is a write to the log like any other, so every watcher sees it in order. Heartbeats are not written to
the log.
"""

from collections.abc import Sequence
from dataclasses import asdict

from configsvc.app.changelog.position import AppliedLog
from configsvc.app.registry.leases.leases import Leases
from configsvc.app.registry.ownership.adoption import Adoption
from configsvc.app.registry.ownership.projection import NodeProjection
from configsvc.app.registry.registrations import Registrations, not_loaded
from configsvc.domain.addresses import AddressRules
from configsvc.domain.fields import SERVICE_NAME_CHARACTERS, checked
from configsvc.domain.fingerprints import fingerprint
from configsvc.domain.instances import HEALTHY, SUSPECT, Incarnation, Instance, instance_ref
from configsvc.domain.limits import Limits
from configsvc.domain.preconditions import NO_PRECONDITION, Precondition
from configsvc.domain.records import AtRevision, Author, Mutation, Record, Ref, Remove, View
from configsvc.domain.registrations import Registration, register, validate, with_defaults
from configsvc.errors import NotFound


class Directory:
    """Registers instances, removes them, and renews their leases.

    `addresses`: which addresses a health check URL may have.
    """

    def __init__(
        self,
        *,
        registrations: Registrations,
        leases: Leases,
        adoption: Adoption,
        projection: NodeProjection,
        limits: Limits,
        addresses: AddressRules,
        default_ttl_seconds: int,
        log: AppliedLog,
    ) -> None:
        self._registrations = registrations
        self._leases = leases
        self._adoption = adoption
        self._projection = projection
        self._limits = limits
        self._addresses = addresses
        self._default_ttl_seconds = default_ttl_seconds
        self._log = log

    async def register(
        self, registration: Registration, author: Author, precondition: Precondition = NO_PRECONDITION
    ) -> AtRevision[Instance]:
        """Registers an instance, or replaces its registration without a gap. It is discoverable when this returns."""
        with checked(self._limits) as fields:
            validate(fields, registration, self._addresses)
            fields.author(author)
        registration = with_defaults(registration, self._default_ttl_seconds)
        ref = instance_ref(registration.service_name, registration.instance_id)
        if precondition is NO_PRECONDITION and (known := self._registrations.get(ref)) is not None:
            # The request is a heartbeat, however long the write takes.
            self._leases.renew(known)
        me, live = self._registrations.replica_id, self._adoption.live
        content = fingerprint(author, "register", asdict(registration), *precondition.contents)
        before: list[Record] = []

        def decide(view: View) -> Sequence[Mutation]:
            current = view.get(ref)
            precondition.check(ref, current)
            before[:] = [record for record in (current,) if record is not None]
            return register(registration, me, live, view)

        commit = await self._registrations.write(ref, author, decide, content)
        # A retried request that changed nothing has neither changes nor a decision.
        known = before[0] if before else self._registrations.get(ref)
        record = commit.changes[0].record if commit.changes else known
        if record is None:
            raise _instance_not_found(ref)
        self._leases.renew(record)
        await self._projection.wait_projected(ref)
        return AtRevision(self._instance(record), commit.revision)

    async def deregister(
        self, service: str, instance_id: str, author: Author, precondition: Precondition = NO_PRECONDITION
    ) -> int:
        """Removes an instance at once; returns the revision. Raises `NotFound`."""
        ref = self._ref(service, instance_id, author)

        def decide(view: View) -> Sequence[Mutation]:
            current = view.get(ref)
            if current is None:
                raise _instance_not_found(ref)
            precondition.check(ref, current)
            return (Remove(ref),)

        # Not a digest: a retry may come to another release, and all have stored this text.
        content = f"deregister {ref!r}{precondition.contents or ''}" if author.request_id else ""
        commit = await self._registrations.write(ref, author, decide, content)
        return commit.revision

    async def heartbeat(
        self,
        service: str,
        instance_id: str,
        precondition: Precondition = NO_PRECONDITION,
        *,
        incarnation: Incarnation | None = None,
    ) -> AtRevision[Instance]:
        """Renews a lease; a SUSPECT instance becomes HEALTHY.

        Raises `NotFound` if the instance is not registered, or if `incarnation` is given and has left.
        """
        ref = self._ref(service, instance_id)
        record = self._registrations.get(ref)
        if record is None and await self._log.catch_up():
            record = self._registrations.get(ref)
        if record is None or (incarnation is not None and Incarnation.of(record) != incarnation):
            raise _instance_not_found(ref) if self._registrations.is_loaded else not_loaded()
        precondition.check(ref, record)
        self._leases.renew(record)
        if record.body["status"] == SUSPECT:
            await self._registrations.set_status(
                Incarnation.of(record), HEALTHY, "heartbeat", "it gives signs of life again", expected_status=SUSPECT
            )
            record = self._registrations.get(ref) or record
        return AtRevision(self._instance(record), self._registrations.revision)

    def _instance(self, record: Record) -> Instance:
        return Instance.of(record, self._leases.last_heartbeat_at(record.ref))

    def _ref(self, service: str, instance_id: str, author: Author | None = None) -> Ref:
        with checked(self._limits) as fields:
            fields.service(service, required=True)
            fields.name("instance_id", instance_id, SERVICE_NAME_CHARACTERS)
            if author is not None:
                fields.author(author)
        return instance_ref(service, instance_id)


def _instance_not_found(ref: Ref) -> NotFound:
    return NotFound(
        f"instance '{ref.key}' of service '{ref.service}' is not registered: it never was, it left, or its lease has run out",
        "INSTANCE_NOT_FOUND",
        {"service_name": ref.service, "instance_id": ref.key},
    )
