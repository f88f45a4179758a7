"""The server: all services, reflection and grpc.health.v1 on one gRPC engine, and an orderly end.

grpc.health.v1 answers for each service: NOT_SERVING until the view that it answers from is complete, and again once the
server drains. The server as a whole (the empty name) is SERVING from the start. A replica whose store is down answers from
what other replicas left in the shared cache, so a gateway must not keep callers from it.
"""

import asyncio
from collections.abc import Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self

from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from configsvc.rpc.engine import Engine
from configsvc.rpc.interceptors import CallInterceptor
from configsvc.rpc.services import ServedService, ServicerHandlers
from configsvc.tasks import SupervisedTask, Supervisor

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Server:
    """Serves while its context is open."""

    def __init__(
        self,
        services: Sequence[ServedService],
        listen: Sequence[str],
        engine: Engine,
        interceptor: CallInterceptor,
        supervisor: Supervisor,
        *,
        grace_seconds: float,
    ) -> None:
        self._services = services
        self._listen = listen
        self._engine = engine
        self._interceptor = interceptor
        self._supervisor = supervisor
        self._grace_seconds = grace_seconds
        self._readiness_tasks: list[SupervisedTask] = []
        self.ports: list[int] = []

    async def __aenter__(self) -> Self:
        handlers: Any = ServicerHandlers()
        self._health = health.aio.HealthServicer()
        for service in self._services:
            service.add_to(handlers)
            await self._health.set(service.name, NOT_SERVING)
            task = self._supervisor.supervise(
                f"readiness of {service.name}", partial(self._set_serving_once_complete, service), may_return=True
            )
            self._readiness_tasks.append(task)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, handlers)
        names = (*(service.name for service in self._services), health.SERVICE_NAME, reflection.SERVICE_NAME)
        add_reflection: Any = reflection_pb2_grpc.add_ServerReflectionServicer_to_server
        add_reflection(reflection.aio.ReflectionServicer(names), handlers)
        methods = [self._interceptor.surround(path, handler) for path, handler in handlers.by_path.items()]
        self.ports = await self._engine.start(methods, self._listen)
        return self

    async def drain(self) -> None:
        """Tells load balancers to send no more traffic. Calls go on, new ones too."""
        await self._health.enter_graceful_shutdown()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Accepts no more calls, and gives the running ones `grace_seconds` to end."""
        await asyncio.gather(*(task.stop() for task in self._readiness_tasks))
        stopped = asyncio.ensure_future(self._engine.stop(self._grace_seconds))
        self._interceptor.end_streams()
        await stopped

    async def _set_serving_once_complete(self, service: ServedService) -> None:
        await service.until_complete()
        await self._health.set(service.name, SERVING)
