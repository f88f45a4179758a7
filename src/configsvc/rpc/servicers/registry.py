"""RegistryService: check, call, convert."""

from collections.abc import AsyncIterator

from configsvc_client.v1 import registry_pb2, registry_pb2_grpc

from configsvc.app.registry.pages import page_of_instances, page_of_services
from configsvc.app.registry.service_registry import ServiceRegistry
from configsvc.app.registry.service_watch import ServiceWatches
from configsvc.app.watch.selector import Selector
from configsvc.clock import Clock
from configsvc.domain.fields import checked
from configsvc.domain.instances import Instance, Listing
from configsvc.domain.limits import Limits
from configsvc.domain.pages import PageRequest
from configsvc.domain.records import Kind
from configsvc.errors import InvalidInput
from configsvc.rpc import convert
from configsvc.rpc.context import CallContext, direct_write
from configsvc.rpc.convert.message_budget import MessageBudget, fit_page
from configsvc.rpc.requests import preconditions, request_metadata
from configsvc.rpc.responses import response_metadata
from configsvc.rpc.responses.watch_streams import WatchStreams


class RegistryServicer(registry_pb2_grpc.RegistryServiceServicer):
    """proto/configsvc/v1/registry.proto says what each method does."""

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
            change=convert.instance_change,
            extra_messages=convert.foreign_event,
        )

    async def RegisterInstance(
        self, request: registry_pb2.RegisterInstanceRequest, context: CallContext
    ) -> registry_pb2.RegisterInstanceResponse:
        author = request_metadata.author(context, request, self._clock)
        precondition = preconditions.from_call(context, request)
        registered = await self._directory.register(convert.registration(request), author, precondition)
        path = response_metadata.rest_path("registry", "services", registered.value.service_name)
        response_metadata.add_resource_metadata(registered.value.etag, status=201, location=path)
        return registry_pb2.RegisterInstanceResponse(
            instance=convert.instance(registered.value), revision=registered.revision
        )

    async def DeregisterInstance(
        self, request: registry_pb2.DeregisterInstanceRequest, context: CallContext
    ) -> registry_pb2.DeregisterInstanceResponse:
        author = request_metadata.author(context, request, self._clock)
        precondition = preconditions.from_call(context, request)
        service, instance = request.service_name, request.instance_id
        revision = await self._directory.deregister(service, instance, author, precondition)
        return registry_pb2.DeregisterInstanceResponse(service_name=service, instance_id=instance, revision=revision)

    async def Heartbeat(
        self, request: registry_pb2.HeartbeatRequest, context: CallContext
    ) -> registry_pb2.HeartbeatResponse:
        precondition = preconditions.from_call(context, request)
        renewed = await self._directory.heartbeat(request.service_name, request.instance_id, precondition)
        return registry_pb2.HeartbeatResponse(instance=convert.instance(renewed.value), revision=renewed.revision)

    async def KeepAlive(
        self, requests: AsyncIterator[registry_pb2.KeepAliveRequest], context: CallContext
    ) -> AsyncIterator[registry_pb2.KeepAliveResponse]:
        first = message = await self._keep_alive.unless_stopping(_next(requests))
        if first is None:
            return
        async with self._keep_alive.open(first.service_name, first.instance_id) as stream:
            while message is not None:
                _check_same_instance(first, message)
                yield registry_pb2.KeepAliveResponse(lease_ttl_seconds=await stream.renew())
                message = await self._keep_alive.unless_stopping(_next(requests))

    async def ListServices(
        self, request: registry_pb2.ListServicesRequest, context: CallContext
    ) -> registry_pb2.ListServicesResponse:
        page = page_of_services(
            self._discovery.services(),
            PageRequest(request.page_size, request.page_token),
            self._limits,
            revision=self._discovery.revision,
            history=self._discovery.history,
        )
        services, token = fit_page(page, convert.service_summary)
        return registry_pb2.ListServicesResponse(services=services, next_page_token=token, revision=page.revision)

    async def GetService(
        self, request: registry_pb2.GetServiceRequest, context: CallContext
    ) -> registry_pb2.GetServiceResponse:
        listing = await self._discovery.service(request.service_name)
        instances, token = self._page(request, listing, ("service", request.service_name))
        return registry_pb2.GetServiceResponse(
            instances=instances, stale=listing.stale, revision=listing.revision, next_page_token=token
        )

    async def GetServiceUrl(
        self, request: registry_pb2.GetServiceUrlRequest, context: CallContext
    ) -> registry_pb2.GetServiceUrlResponse:
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

    async def CheckServiceHealth(
        self, request: registry_pb2.CheckServiceHealthRequest, context: CallContext
    ) -> registry_pb2.CheckServiceHealthResponse:
        results = await self._service_check.check(request.service_name)
        fitting = MessageBudget().fill(lambda result, _: convert.check_result(result), results)
        return registry_pb2.CheckServiceHealthResponse(results=fitting, results_omitted=len(results) - len(fitting))

    async def DiscoverInstances(
        self, request: registry_pb2.DiscoverInstancesRequest, context: CallContext
    ) -> registry_pb2.DiscoverInstancesResponse:
        metadata = convert.metadata_filter(request.metadata, self._limits.metadata_entries)
        listing = await self._discovery.discover(
            request.service_name, metadata=metadata, zone=request.zone, version=request.version
        )
        query = ("discover", request.service_name, sorted(request.metadata), request.zone, request.version)
        instances, token = self._page(request, listing, query)
        return registry_pb2.DiscoverInstancesResponse(
            instances=instances, stale=listing.stale, revision=listing.revision, next_page_token=token
        )

    def WatchService(
        self, request: registry_pb2.WatchServiceRequest, context: CallContext
    ) -> AsyncIterator[registry_pb2.WatchServiceResponse]:
        with checked(self._limits) as fields:
            fields.service(request.service_name, required=True)
        selector = Selector(Kind.INSTANCE, "", request.service_name, None, "")
        after = request.after_revision if request.HasField("after_revision") else None
        history = request_metadata.expected_history(context, request)
        return self._watches.stream(selector, after, history, direct_write(context))

    def _page(
        self,
        request: registry_pb2.GetServiceRequest | registry_pb2.DiscoverInstancesRequest,
        listing: Listing,
        query: tuple[object, ...],
    ) -> tuple[list[registry_pb2.Instance], str]:
        """As many instances as the caller asked for and as fit, and the token that continues after them."""
        wanted = PageRequest(request.page_size, request.page_token)
        page = page_of_instances(listing, query, wanted, self._limits, history=self._discovery.history)
        return fit_page(page, lambda instance, _: convert.instance(instance))


async def _next(messages: AsyncIterator[registry_pb2.KeepAliveRequest]) -> registry_pb2.KeepAliveRequest | None:
    """The next message; None at the end of the stream."""
    return await anext(messages, None)


def _check_same_instance(first: registry_pb2.KeepAliveRequest, message: registry_pb2.KeepAliveRequest) -> None:
    """Refuses a message about another instance than the first one. A later message may leave the names out."""
    names = (message.service_name or first.service_name, message.instance_id or first.instance_id)
    if names != (first.service_name, first.instance_id):
        raise InvalidInput.of("instance_id", "must stay the same on one stream: it belongs to one instance")
