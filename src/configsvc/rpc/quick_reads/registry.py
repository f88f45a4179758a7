"""DiscoverInstances and GetServiceUrl from the views of services in memory.

An instance is encoded once, without the time of its last heartbeat, and kept until the view of its service changes.
"""

from collections.abc import Mapping
from datetime import datetime

from configsvc_client.v1 import registry_pb2

from configsvc.app.registry.discovery import Discovery, ServiceView
from configsvc.domain.balancing import checked_strategy
from configsvc.domain.fields import checked
from configsvc.domain.instances import Instance
from configsvc.domain.limits import Limits
from configsvc.domain.records import Record
from configsvc.rpc import convert
from configsvc.rpc.quick_reads import wire
from configsvc.rpc.quick_reads.answers import Find, Found
from configsvc.rpc.quick_reads.positions import Position
from configsvc.rpc.quick_reads.request_memo import RequestMemo

_INSTANCES = wire.delimited_tag(registry_pb2.DiscoverInstancesResponse.DESCRIPTOR, "instances")
_LAST_HEARTBEAT_AT = wire.delimited_tag(registry_pb2.Instance.DESCRIPTOR, "last_heartbeat_at")
_URL, _INSTANCE_ID, _STRATEGY = (
    wire.delimited_tag(registry_pb2.GetServiceUrlResponse.DESCRIPTOR, field)
    for field in ("url", "instance_id", "strategy")
)

# A larger answer is one of the general path, which cuts it into pages.
DISCOVER_BYTES = 1 << 20


class _Part:
    """An instance, and the field of an answer that it is at the time of a heartbeat."""

    __slots__ = ("contents", "field", "heartbeat_at", "instance", "member")

    def __init__(self, member: Record | Instance) -> None:
        self.member = member
        self.instance = Instance.of(member) if isinstance(member, Record) else member
        message = convert.instance(self.instance)
        message.ClearField("last_heartbeat_at")
        self.contents = message.SerializeToString()
        self.heartbeat_at: datetime | None = None
        self.field = b""

    def at(self, heartbeat_at: datetime) -> bytes:
        """The field, with the time of the last heartbeat."""
        if heartbeat_at is not self.heartbeat_at:
            time = wire.delimited(_LAST_HEARTBEAT_AT, convert.timestamp(heartbeat_at).SerializeToString())
            self.field, self.heartbeat_at = wire.delimited(_INSTANCES, self.contents + time), heartbeat_at
        return self.field


class _Service:
    """The instances of a view that are healthy, and the answers that name one of them by a strategy."""

    __slots__ = ("instances", "parts", "picks", "view")

    def __init__(self, view: ServiceView) -> None:
        self.view = view
        self.parts = [_Part(member) for member in view.serving]
        self.instances = [part.instance for part in self.parts]
        self.picks: dict[tuple[str, str], bytes] = {}

    @property
    def held_bytes(self) -> int:
        """About what it takes in memory."""
        return sum(2 * len(part.contents) + 1_000 for part in self.parts)


class _Discover:
    """A DiscoverInstances request."""

    __slots__ = ("metadata", "min_revision", "service", "version", "zone")

    def __init__(self, message: registry_pb2.DiscoverInstancesRequest, limits: Limits) -> None:
        # A request for a page is not quick.
        self.service = "" if message.page_size or message.page_token else _checked(message.service_name, limits)
        self.metadata = convert.metadata_filter(message.metadata, limits.metadata_entries).items()
        self.zone, self.version, self.min_revision = message.zone, message.version, message.min_revision

    def selects(self, instance: Instance) -> bool:
        """Whether it asks for this instance."""
        return (
            self.metadata <= instance.metadata.items()
            and self.zone in ("", instance.zone)
            and self.version in ("", instance.version)
        )


class _Pick:
    """A GetServiceUrl request."""

    __slots__ = ("hash_key", "min_revision", "service", "strategy", "zone")

    def __init__(self, message: registry_pb2.GetServiceUrlRequest, limits: Limits) -> None:
        self.service = _checked(message.service_name, limits)
        self.zone, self.hash_key = message.zone, message.hash_key
        self.strategy = checked_strategy(message.strategy, message.hash_key)
        self.min_revision = message.min_revision


def _checked(service: str, limits: Limits) -> str:
    """The name of a service. Raises `InvalidInput`: the registry may show services that can't be asked for."""
    with checked(limits) as fields:
        return fields.service(service, required=True)


class QuickRegistry:
    """The quick reads of RegistryService."""

    def __init__(self, discovery: Discovery, limits: Limits) -> None:
        self._discovery = discovery
        self._limits = limits
        self._services = RequestMemo[_Service]()
        self._discovers = RequestMemo[_Discover]()
        self._picks = RequestMemo[_Pick]()

    @property
    def methods(self) -> Mapping[str, Find]:
        """What answers each method."""
        return {"DiscoverInstances": self.discover, "GetServiceUrl": self.pick}

    def discover(self, received: bytes, position: Position) -> Found | None:
        """DiscoverInstances."""
        request = self._discovers.get(received)
        if request is None:
            message = registry_pb2.DiscoverInstancesRequest.FromString(received)
            request = _Discover(message, self._limits)
            self._discovers.put(received, request, len(received))
        service = self._service(request.service)
        revision = self._discovery.revision
        if service is None or not 0 <= request.min_revision <= min(revision, position.revision):
            return None
        last_heartbeat_at = self._discovery.last_heartbeat_at
        fields = [part.at(last_heartbeat_at(part.member)) for part in service.parts if request.selects(part.instance)]
        answer = b"".join(fields)
        return (answer, revision, "", 0) if len(answer) <= DISCOVER_BYTES else None

    def pick(self, received: bytes, position: Position) -> Found | None:
        """GetServiceUrl. The service's next turn is taken last, so that a call that is not quick takes none here."""
        request = self._picks.get(received)
        if request is None:
            request = _Pick(registry_pb2.GetServiceUrlRequest.FromString(received), self._limits)
            self._picks.put(received, request, len(received))
        service = self._service(request.service)
        revision = self._discovery.revision
        if service is None or not 0 <= request.min_revision <= min(revision, position.revision):
            return None
        chosen = self._discovery.pick_from(
            request.service, service.instances, request.strategy, request.hash_key, request.zone
        )
        named = chosen.instance_id, request.strategy
        answer = service.picks.get(named)
        if answer is None:
            parts = ((_URL, chosen.service_url), (_INSTANCE_ID, chosen.instance_id), (_STRATEGY, request.strategy))
            answer = service.picks[named] = b"".join(wire.text(tag, value) for tag, value in parts)
        return answer, revision, "", 0

    def _service(self, name: str) -> _Service | None:
        view = self._discovery.peek(name) if name else None
        if view is None:
            return None
        key = name.encode()
        service = self._services.get(key)
        if service is None or service.view is not view:
            service = _Service(view)
            self._services.put(key, service, service.held_bytes)
        return service
