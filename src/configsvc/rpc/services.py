"""The services of this server: the one list. The server, reflection, grpc.health.v1 and the gateway's routes follow it."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from configsvc_client.v1 import (
    change_pb2,
    change_pb2_grpc,
    config_pb2,
    config_pb2_grpc,
    flag_pb2,
    flag_pb2_grpc,
    health_pb2,
    health_pb2_grpc,
    registry_pb2,
    registry_pb2_grpc,
)
from google.protobuf.descriptor import ServiceDescriptor

S = TypeVar("S")


async def complete_at_once() -> None:
    """For a service that reads no view of the log."""


class ServicerHandlers:
    """What the generated functions take for a server: it collects the handlers of servicers, by the path of the method."""

    def __init__(self) -> None:
        self.by_path: dict[str, Any] = {}

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Any]) -> None:
        """Called by the generated functions with all methods of a service."""
        self.by_path.update({f"/{service_name}/{name}": handler for name, handler in method_handlers.items()})

    def add_generic_rpc_handlers(self, handlers: Iterable[Any]) -> None:
        """Called by the generated functions for servers that ask for handlers by path; the others suffice."""


@dataclass(frozen=True, slots=True)
class ServedService:
    """A service with its servicer.

    `until_complete` returns when everything that the service answers from has been read once. From then on,
    grpc.health.v1 says SERVING for it.
    """

    descriptor: ServiceDescriptor
    add_to: Callable[[ServicerHandlers], None]
    until_complete: Callable[[], Awaitable[None]]

    @property
    def name(self) -> str:
        """The full name, `configsvc.v1.ConfigService`."""
        return self.descriptor.full_name


@dataclass(frozen=True, slots=True)
class Service(Generic[S]):
    """A service of the protos. `S` is the type of its servicer."""

    descriptor: ServiceDescriptor
    add_to_server: Callable[[S, Any], None]

    def served_by(self, servicer: S, until_complete: Callable[[], Awaitable[None]] = complete_at_once) -> ServedService:
        """This service, answered by `servicer`."""
        return ServedService(self.descriptor, lambda server: self.add_to_server(servicer, server), until_complete)


CONFIGS = Service(
    config_pb2.DESCRIPTOR.services_by_name["ConfigService"], config_pb2_grpc.add_ConfigServiceServicer_to_server
)
FLAGS = Service(flag_pb2.DESCRIPTOR.services_by_name["FlagService"], flag_pb2_grpc.add_FlagServiceServicer_to_server)
REGISTRY = Service(
    registry_pb2.DESCRIPTOR.services_by_name["RegistryService"], registry_pb2_grpc.add_RegistryServiceServicer_to_server
)
CHANGES = Service(
    change_pb2.DESCRIPTOR.services_by_name["ChangeService"], change_pb2_grpc.add_ChangeServiceServicer_to_server
)
HEALTH = Service(
    health_pb2.DESCRIPTOR.services_by_name["HealthService"], health_pb2_grpc.add_HealthServiceServicer_to_server
)

# In the order in which routes of the gateway and reflection list them.
SERVICES: tuple[Service[Any], ...] = (CONFIGS, FLAGS, REGISTRY, CHANGES, HEALTH)
