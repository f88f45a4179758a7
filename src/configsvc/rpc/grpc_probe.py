"""Looks over gRPC: `grpc.health.v1.Health/Check` must say SERVING."""

from urllib.parse import urlsplit

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from configsvc.probes.network import AddressFilter
from configsvc.probes.port import ProbeFailedError


class GrpcProbe:
    """See `probes.port.Probe`."""

    def __init__(self, addresses: AddressFilter, timeout_seconds: float) -> None:
        self._addresses = addresses
        self._timeout_seconds = timeout_seconds

    async def look(self, url: str) -> None:
        """See the port."""
        parts = urlsplit(url)
        address = await self._addresses.resolve(parts.hostname or "", parts.port or 0)
        target = f"[{address}]:{parts.port}" if ":" in address else f"{address}:{parts.port}"
        async with grpc.aio.insecure_channel(target) as channel:
            try:
                answer = await health_pb2_grpc.HealthStub(channel).Check(  # type: ignore[attr-defined]
                    health_pb2.HealthCheckRequest(service=parts.path.strip("/")), timeout=self._timeout_seconds
                )
            except grpc.aio.AioRpcError as error:
                raise ProbeFailedError(f"{error.code().name}: {error.details()}") from error
        if answer.status != health_pb2.HealthCheckResponse.SERVING:
            raise ProbeFailedError(f"it says {health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)}")
