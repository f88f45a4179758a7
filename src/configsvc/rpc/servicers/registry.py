"""RegistryService: check, call, convert."""

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from configsvc_client.v1 import registry_pb2, registry_pb2_grpc

from configsvc.app.registry.service_registry import ServiceRegistry
from configsvc.app.registry.service_watch import ForeignChanged, ForeignSnapshot, ServiceEvent, ServiceWatches
from configsvc.app.watch.watcher import Selector
from configsvc.clock import Clock
from configsvc.domain import pages
from configsvc.domain.fields import checked
from configsvc.domain.instances import Instance, Listing, ServiceSummary
from configsvc.domain.limits import Limits
from configsvc.domain.records import Change, Kind, Record
from configsvc.errors import InvalidInput
from configsvc.rpc import convert
from configsvc.rpc.requests import preconditions, request_metadata
from configsvc.rpc.responses import response_metadata
from configsvc.rpc.responses.message_budget import Detail, MessageBudget, fit_page
from configsvc.rpc.responses.watch_streams import WatchStreams


class RegistryServicer(registry_pb2_grpc.RegistryServiceServicer):
    """See proto/configsvc/v1/registry.proto."""

    def __init__(self, registry: ServiceRegistry, watches: ServiceWatches, clock: Clock, limits: Limits) -> None:
        self._directory = registry.directory
        self._discovery = registry.discovery
        self._keep_alive = registry.keep_alive
        self._service_check = registry.service_check
        self._clock = clock
        self._limits = limits
        self._watches = WatchStreams(
            watches,
            response=registry_pb2.WatchServiceResponse,
            snapshot=lambda instances: registry_pb2.InstanceSnapshot(instances=instances),
            item=lambda record, _: convert.instance(Instance.of(record)),
            change=_change,
            extra_messages=_foreign,
        )

    async def RegisterInstance(self, request: Any, context: Any) -> registry_pb2.RegisterInstanceResponse:
        """Registers an instance."""
        author = request_metadata.author(context, request, self._clock)
        asked = preconditions.from_call(context, request)
        instance, revision = await self._directory.register(convert.registration(request), author, asked)
        response_metadata.add_resource_metadata(
            instance.etag,
            status=201,
            location=response_metadata.rest_path("registry", "services", instance.service_name),
        )
        return registry_pb2.RegisterInstanceResponse(instance=convert.instance(instance), revision=revision)

    async def DeregisterInstance(self, request: Any, context: Any) -> registry_pb2.DeregisterInstanceResponse:
        """Removes an instance."""
        author = request_metadata.author(context, request, self._clock)
        asked = preconditions.from_call(context, request)
        revision = await self._directory.deregister(request.service_name, request.instance_id, author, asked)
        return registry_pb2.DeregisterInstanceResponse(
            service_name=request.service_name, instance_id=request.instance_id, revision=revision
        )

    async def Heartbeat(self, request: Any, context: Any) -> registry_pb2.HeartbeatResponse:
        """Renews a lease."""
        asked = preconditions.from_call(context, request)
        instance, revision = await self._directory.heartbeat(request.service_name, request.instance_id, asked)
        return registry_pb2.HeartbeatResponse(instance=convert.instance(instance), revision=revision)

    async def KeepAlive(self, requests: Any, context: Any) -> AsyncIterator[registry_pb2.KeepAliveResponse]:
        """Renews a lease with each message."""
        first = await self._keep_alive.unless_stopping(_next(requests))
        if first is None:
            return
        async with self._keep_alive.open(first.service_name, first.instance_id) as stream:
            message = first
            while message is not None:
                named = (message.service_name or first.service_name, message.instance_id or first.instance_id)
                if named != (first.service_name, first.instance_id):
                    raise InvalidInput.of("instance_id", "must stay the same on one stream: it belongs to one instance")
                yield registry_pb2.KeepAliveResponse(lease_ttl_seconds=await stream.renew())
                message = await self._keep_alive.unless_stopping(_next(requests))

    async def ListServices(self, request: Any, context: Any) -> registry_pb2.ListServicesResponse:
        """One page of services."""
        with checked(self._limits) as fields:
            size = fields.page_size(request.page_size)
        cursor = pages.page_cursor(request.page_token, ("services",), str)
        found = [s for s in self._discovery.services() if cursor is None or s.service_name > cursor[0]]
        page = pages.page_of(
            ("services",),
            found[:size],
            token=request.page_token,
            more=len(found) > size,
            revision=self._discovery.revision,
            history=self._discovery.history,
            cursor=lambda service: (service.service_name,),
        )
        services, token = fit_page(page, _summary)
        return registry_pb2.ListServicesResponse(services=services, next_page_token=token, revision=page.revision)

    async def GetService(self, request: Any, context: Any) -> registry_pb2.GetServiceResponse:
        """Every instance of a service."""
        listing = await self._discovery.service(request.service_name)
        instances, token = self._page(request, listing, ("service", request.service_name))
        return registry_pb2.GetServiceResponse(
            instances=instances, stale=listing.stale, revision=listing.revision, next_page_token=token
        )

    async def GetServiceUrl(self, request: Any, context: Any) -> registry_pb2.GetServiceUrlResponse:
        """One instance by a strategy."""
        picked = await self._discovery.pick(
            request.service_name, strategy=request.strategy, hash_key=request.hash_key, zone=request.zone
        )
        return registry_pb2.GetServiceUrlResponse(
            url=picked.url,
            instance_id=picked.instance_id,
            strategy=picked.strategy,
            stale=picked.stale,
            revision=picked.revision,
        )

    async def CheckServiceHealth(self, request: Any, context: Any) -> registry_pb2.CheckServiceHealthResponse:
        """Checks every instance now."""
        results = await self._service_check.check(request.service_name)
        told = MessageBudget().fill(lambda result, _: convert.check_result(result), results)
        return registry_pb2.CheckServiceHealthResponse(results=told, results_omitted=len(results) - len(told))

    async def DiscoverInstances(self, request: Any, context: Any) -> registry_pb2.DiscoverInstancesResponse:
        """The healthy instances."""
        listing = await self._discovery.discover(
            request.service_name,
            metadata=_metadata(request.metadata, self._limits.metadata_entries),
            zone=request.zone,
            version=request.version,
        )
        query = ("discover", request.service_name, sorted(request.metadata), request.zone, request.version)
        instances, token = self._page(request, listing, query)
        return registry_pb2.DiscoverInstancesResponse(
            instances=instances, stale=listing.stale, revision=listing.revision, next_page_token=token
        )

    def WatchService(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """The instances, then every change."""
        with checked(self._limits) as fields:
            fields.service(request.service_name, required=True)
        selector = Selector(Kind.INSTANCE, "", request.service_name, None, "")
        return self._watches.stream(
            selector, convert.optional(request, "after_revision"), request_metadata.expected_history(context, request)
        )

    def _page(self, request: Any, listing: Listing, query: tuple[Any, ...]) -> tuple[list[registry_pb2.Instance], str]:
        """As many instances as were asked for (0: all) and fit, and the token that continues after them."""
        with checked(self._limits) as fields:
            size = fields.page_size(request.page_size) if request.page_size else len(listing.instances)
        cursor = pages.page_cursor(request.page_token, query, str)
        found = [one for one in listing.instances if cursor is None or one.instance_id > cursor[0]]
        page = pages.page_of(
            query,
            found[:size],
            token=request.page_token,
            more=len(found) > size,
            revision=listing.revision,
            history=self._discovery.history,
            cursor=lambda instance: (instance.instance_id,),
        )
        return fit_page(page, lambda instance, _: convert.instance(instance))


async def _next(messages: AsyncIterator[Any]) -> Any:
    """The next message; None at the end."""
    async for message in messages:
        return message
    return None


def _metadata(given: Sequence[str], most: int) -> dict[str, str]:
    if len(given) > most:
        raise InvalidInput.of("metadata", f"must have at most {most} entries; it has {len(given)}")
    pairs = [text.partition("=") for text in given]
    if any(not name or not equals for name, equals, _ in pairs):
        raise InvalidInput.of("metadata", "must be name=value each")
    return {name: value for name, _, value in pairs}


def _summary(service: ServiceSummary, _: Detail) -> registry_pb2.ServiceSummary:
    return registry_pb2.ServiceSummary(
        service_name=service.service_name, instances=service.instances, healthy=service.healthy
    )


def _foreign(event: ServiceEvent) -> Iterator[registry_pb2.WatchServiceResponse]:
    match event:
        case ForeignSnapshot(instances):
            rest, is_first = list(instances), True
            while rest or is_first:
                # Each of them fits: its texts are as long as those of a registration, at most.
                part = MessageBudget().fill(lambda instance, _: convert.instance(instance), rest)
                snapshot = registry_pb2.InstanceSnapshot(instances=part, foreign=is_first)
                yield registry_pb2.WatchServiceResponse(snapshot=snapshot)
                rest, is_first = rest[len(part) :], False
        case ForeignChanged(revision, instance, previous, is_gone):
            gone = registry_pb2.Instance(
                service_name=instance.service_name, instance_id=instance.instance_id, foreign=True
            )
            yield registry_pb2.WatchServiceResponse(
                change=registry_pb2.InstanceChange(
                    revision=revision,
                    type="DELETE" if is_gone else "PUT",
                    instance=gone if is_gone else convert.instance(instance),
                    previous=None if previous is None else convert.instance(previous),
                    revision_complete=True,
                )
            )


def _change(change: Change, detail: Detail) -> registry_pb2.WatchServiceResponse:
    gone = registry_pb2.Instance(service_name=change.ref.service, instance_id=change.ref.key, revision=change.revision)
    previous = None
    if change.before is not None and detail.includes_before:
        before = Record(
            change.ref,
            change.version - 1,
            change.before_revision,
            change.before,
            change.created_at,
            change.at,
            "",
            change.history,
        )
        previous = convert.instance(Instance.of(before))
    message = registry_pb2.InstanceChange(
        revision=change.revision,
        type="PUT" if change.record else "DELETE",
        instance=convert.instance(Instance.of(change.record)) if change.record else gone,
        previous=previous,
        previous_omitted=change.before is not None and not detail.includes_before,
    )
    return registry_pb2.WatchServiceResponse(change=message)
