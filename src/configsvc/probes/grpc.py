"""Looks over gRPC: `grpc.health.v1.Health/Check` must say SERVING."""

from urllib.parse import urlsplit

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from configsvc.probes.network import ANSWER_BYTES, AddressFilter, NotReachedError, asked_of
from configsvc.probes.port import ProbeFailedError, ProbeUnansweredError

NO_GRPC = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.CANCELLED)
# Of the other side's own words.
DETAILS_CHARACTERS = 200


class GrpcProbe:
    """See `probes.port.Probe`. A path in the URL names the service; without one it is the whole server."""

    def __init__(self, addresses: AddressFilter, timeout_seconds: float) -> None:
        self._addresses = addresses
        self._timeout_seconds = timeout_seconds

    async def check(self, url: str) -> None:
        """See the port."""
        parts = urlsplit(url)
        port = parts.port or 0
        request = health_pb2.HealthCheckRequest(service=parts.path.strip("/"))

        async def ask(address: str, of_how_many: int) -> None:
            # A numeric target, so that gRPC resolves nothing itself.
            target = f"ipv6:[{address}]:{port}" if ":" in address else f"ipv4:{address}:{port}"
            authority = asked_of(url).netloc.decode("ascii")
            await self._ask(target, authority, request, self._timeout_seconds / of_how_many)

        await self._addresses.reach(parts.hostname or "", port, ask)

    async def _ask(self, target: str, authority: str, request: health_pb2.HealthCheckRequest, seconds: float) -> None:
        options = (
            # The name still counts for virtual hosts.
            ("grpc.default_authority", authority),
            # Else a proxy in the environment would be asked, and resolve the name again.
            ("grpc.enable_http_proxy", 0),
            # A look knows nothing of the failures of the one before.
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_receive_message_length", ANSWER_BYTES),
        )
        async with grpc.aio.insecure_channel(target, options) as channel:
            try:
                answer = await health_pb2_grpc.HealthStub(channel).Check(  # type: ignore[attr-defined]
                    request, timeout=seconds
                )
            except grpc.aio.AioRpcError as error:
                detail = f"{error.code().name}: {(error.details() or '')[:DETAILS_CHARACTERS]}"
                if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                    raise NotReachedError(detail) from error
                if error.code() in NO_GRPC:
                    # What gRPC makes of an answer that is none.
                    raise ProbeUnansweredError(detail) from error
                raise ProbeFailedError(f"it answered {error.code().name}") from error
        if answer.status != health_pb2.HealthCheckResponse.SERVING:
            raise ProbeFailedError(f"it says {health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)}")
