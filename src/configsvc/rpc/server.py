"""The grpc.aio server: all services, reflection, grpc.health.v1, and an orderly end.

grpc.health.v1 answers for each service: NOT_SERVING until the view that it answers from is complete, and again once the
server drains. The server as a whole (the empty name) is SERVING from the start. A replica whose store is down answers from
what other replicas left in the shared cache, so a gateway must not keep callers from it.
"""

import asyncio
from collections.abc import Sequence
from functools import partial
from types import TracebackType
from typing import Self

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from configsvc.rpc.interceptors import CallInterceptor
from configsvc.rpc.services import ServedService
from configsvc.tasks import SupervisedTask, Supervisor

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

# Every answer is smaller than what stock clients receive (`domain/sizes.py`). The exception is a single resource that was
# stored before there was a limit: a caller gets it if its client is set to receive it.
MAX_SEND_BYTES = 64 << 20
OPTIONS = (
    ("grpc.max_send_message_length", MAX_SEND_BYTES),
    # Clients may ping an idle watch every 10 s. By default gRPC allows one ping in 5 min and then closes the connection
    # (too_many_pings).
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_ping_strikes", 0),
    # The gateway allows 96 KiB of headers, and sends the path of a REST call twice. By default gRPC refuses some headers
    # from 8 KiB on, at random: too little for a list with a hundred keys, or for a browser's cookies.
    ("grpc.max_metadata_size", 256 << 10),
    ("grpc.absolute_max_metadata_size", 256 << 10),
    ("grpc.so_reuseport", 0),
)


class Server:
    """Serves while its context is open.

    gRPC refuses a message of more than `max_request_bytes`, decompressed, before this service sees it.
    """

    def __init__(
        self,
        services: Sequence[ServedService],
        listen: Sequence[str],
        interceptor: CallInterceptor,
        supervisor: Supervisor,
        *,
        grace_seconds: float,
        max_request_bytes: int,
    ) -> None:
        self._services = services
        self._listen = listen
        self._interceptor = interceptor
        self._supervisor = supervisor
        self._grace_seconds = grace_seconds
        self._max_request_bytes = max_request_bytes
        self._readiness_tasks: list[SupervisedTask] = []
        self.ports: list[int] = []

    async def __aenter__(self) -> Self:
        # gRPC counts the bytes while it decompresses, and stops at the limit.
        options = (*OPTIONS, ("grpc.max_receive_message_length", self._max_request_bytes))
        self._server = grpc.aio.server(interceptors=[self._interceptor], options=options)
        self._health = health.aio.HealthServicer()
        for service in self._services:
            service.add_to(self._server)
            await self._health.set(service.name, NOT_SERVING)
            task = self._supervisor.supervise(
                f"readiness of {service.name}", partial(self._set_serving_once_complete, service), may_return=True
            )
            self._readiness_tasks.append(task)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (*(service.name for service in self._services), health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)
        self.ports = [self._server.add_insecure_port(address) for address in self._listen]
        await self._server.start()
        return self

    async def drain(self) -> None:
        """Tells load balancers to send no more traffic. Calls go on, new ones too."""
        await self._health.enter_graceful_shutdown()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Accepts no more calls, and gives the running ones `grace_seconds` to end."""
        await asyncio.gather(*(task.stop() for task in self._readiness_tasks))
        stopped = asyncio.ensure_future(self._server.stop(self._grace_seconds))
        self._interceptor.end_streams()
        await stopped

    async def _set_serving_once_complete(self, service: ServedService) -> None:
        await service.until_complete()
        await self._health.set(service.name, SERVING)
