"""The grpc.aio server: all services, reflection, grpc.health.v1, and an orderly end.

grpc.health.v1 tells of each service by itself: it is NOT_SERVING until the view that it answers from is complete, and
again from the drain on. The server as a whole (the empty name) is SERVING from the start: a replica whose store is away
answers from what others have left in the shared cache, and a gateway must not keep callers from it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self

import grpc
from configsvc_client.v1 import (
    change_pb2,
    change_pb2_grpc,
    config_pb2,
    config_pb2_grpc,
    flag_pb2,
    flag_pb2_grpc,
    registry_pb2,
    registry_pb2_grpc,
)
from configsvc_client.v1 import health_pb2 as service_health_pb2
from configsvc_client.v1 import health_pb2_grpc as service_health_pb2_grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from configsvc.rpc.interceptors import CallInterceptor
from configsvc.tasks import SupervisedTask, Supervisor

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

# Every answer is below what stock clients take (`domain/sizes.py`), but for a single resource that was stored before
# there was a limit: who asks for it alone gets it, if their client takes it.
LARGEST_STORED_BYTES = 64 << 20
OPTIONS = (
    ("grpc.max_send_message_length", LARGEST_STORED_BYTES),
    # Clients may ping an idle watch every 10 s; with the default of 5 min they would be cut off (too_many_pings).
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_ping_strikes", 0),
    # The gateway's limit for headers is 96 KiB, and it sends a REST path twice. The defaults, refused at random from 8 KiB
    # on, would be too little for a list with a hundred keys, or a browser's cookies.
    ("grpc.max_metadata_size", 256 << 10),
    ("grpc.absolute_max_metadata_size", 256 << 10),
    ("grpc.so_reuseport", 0),
)
SERVICES: dict[Any, Any] = {
    config_pb2: config_pb2_grpc.add_ConfigServiceServicer_to_server,
    flag_pb2: flag_pb2_grpc.add_FlagServiceServicer_to_server,
    registry_pb2: registry_pb2_grpc.add_RegistryServiceServicer_to_server,
    change_pb2: change_pb2_grpc.add_ChangeServiceServicer_to_server,
    service_health_pb2: service_health_pb2_grpc.add_HealthServiceServicer_to_server,
}


@dataclass(frozen=True, slots=True)
class Served:
    """A servicer. `complete` returns when the view that it answers from has been read whole; it stays so."""

    servicer: Any
    complete: Callable[[], Awaitable[None]]


class Server:
    """Serves while its context is open. `served` is in the order of `SERVICES`.

    A message of more than `request_bytes`, decompressed, is refused before it is read.
    """

    def __init__(
        self,
        served: Sequence[Served],
        listen: Sequence[str],
        interceptor: CallInterceptor,
        grace_seconds: float,
        request_bytes: int,
        supervisor: Supervisor | None = None,
    ) -> None:
        self._supervisor = supervisor or Supervisor()
        self._served = served
        self._listen = listen
        self._interceptor = interceptor
        self._grace_seconds = grace_seconds
        self._request_bytes = request_bytes
        self._watching: list[SupervisedTask] = []
        self.ports: list[int] = []

    async def __aenter__(self) -> Self:
        # gRPC counts while it decompresses, and stops there.
        options = (*OPTIONS, ("grpc.max_receive_message_length", self._request_bytes))
        self._server = grpc.aio.server(interceptors=[self._interceptor], options=options)
        self._health = health.aio.HealthServicer()
        names: list[str] = []
        for (module, add), served in zip(SERVICES.items(), self._served, strict=True):
            add(served.servicer, self._server)
            (name,) = (service.full_name for service in module.DESCRIPTOR.services_by_name.values())
            names.append(name)
            await self._health.set(name, NOT_SERVING)
            work = partial(self._serve_once_complete, name, served)
            self._watching.append(self._supervisor.supervise(f"readiness of {name}", work, may_return=True))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((*names, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)
        self.ports = [self._server.add_insecure_port(address) for address in self._listen]
        await self._server.start()
        return self

    async def drain(self) -> None:
        """Says that this server gets no traffic any more; calls go on."""
        await self._health.enter_graceful_shutdown()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Takes no new calls, and gives those in flight their grace."""
        await asyncio.gather(*(task.stop() for task in self._watching))
        stopped = asyncio.ensure_future(self._server.stop(self._grace_seconds))
        self._interceptor.end_streams()
        await stopped

    async def _serve_once_complete(self, name: str, served: Served) -> None:
        await served.complete()
        await self._health.set(name, SERVING)
