"""HealthService: the health board over REST and gRPC."""

from collections.abc import Awaitable, Callable

from configsvc_client.v1 import health_pb2, health_pb2_grpc

from configsvc.app.changelog.position import LogPosition
from configsvc.app.health import Health, ReplicaHealth
from configsvc.domain.lineage import HistoryOrigin
from configsvc.rpc import convert
from configsvc.rpc.context import CallContext
from configsvc.rpc.responses import response_metadata


class HealthServicer(health_pb2_grpc.HealthServiceServicer):
    """proto/configsvc/v1/health.proto says what each method does."""

    def __init__(
        self,
        replica: ReplicaHealth,
        position: LogPosition,
        origin: Callable[[], Awaitable[HistoryOrigin]],
        instance_id: str,
    ) -> None:
        self._replica = replica
        self._position = position
        self._origin = origin
        self._instance_id = instance_id

    async def GetHealth(
        self, request: health_pb2.GetHealthRequest, context: CallContext
    ) -> health_pb2.GetHealthResponse:
        return health_pb2.GetHealthResponse(health=await self._message(await self._replica.check()))

    async def GetReadiness(
        self, request: health_pb2.GetReadinessRequest, context: CallContext
    ) -> health_pb2.GetReadinessResponse:
        health = await self._replica.check()
        if not health.ready:
            # REST callers, such as load balancers, look at the status alone.
            response_metadata.add_metadata(("x-http-status", "503"))
        return health_pb2.GetReadinessResponse(health=await self._message(health))

    async def GetLiveness(
        self, request: health_pb2.GetLivenessRequest, context: CallContext
    ) -> health_pb2.GetLivenessResponse:
        return health_pb2.GetLivenessResponse(status="up")

    async def _message(self, health: Health) -> health_pb2.Health:
        origin = await self._origin()
        return convert.health(health, origin, applied=self._position.applied, instance_id=self._instance_id)
