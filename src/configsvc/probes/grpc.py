"""The probe for gRPC: `grpc.health.v1.Health/Check` must answer SERVING."""

from urllib.parse import urlsplit

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from configsvc.probes.address_filter import AddressFilter, ConnectFailedError
from configsvc.probes.network import ANSWER_BYTES, wire_url
from configsvc.probes.port import ProbeFailedError, ProbeUnansweredError

# The status codes that gRPC itself makes if the answer is not gRPC.
NOT_GRPC = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.CANCELLED)
# The length to which the target's error text is cut for the log.
DETAILS_CHARACTERS = 200


class GrpcProbe:
    """A path in the URL names the service to check. Without a path, the whole server is checked."""

    def __init__(self, addresses: AddressFilter, timeout_seconds: float) -> None:
        self._addresses = addresses
        self._timeout_seconds = timeout_seconds

    async def check(self, url: str) -> None:
        """One call to each address, until one is reached."""
        parts = urlsplit(url)
        port = parts.port or 0
        request = health_pb2.HealthCheckRequest(service=parts.path.strip("/"))

        async def attempt(address: str, address_count: int) -> None:
            # A numeric target, so that gRPC resolves nothing itself.
            target = f"ipv6:[{address}]:{port}" if ":" in address else f"ipv4:{address}:{port}"
            authority = wire_url(url).netloc.decode("ascii")
            await self._call(target, authority, request, self._timeout_seconds / address_count)

        await self._addresses.connect(parts.hostname or "", port, attempt)

    async def _call(self, target: str, authority: str, request: health_pb2.HealthCheckRequest, seconds: float) -> None:
        options = (
            # Virtual hosts need the name.
            ("grpc.default_authority", authority),
            # Else gRPC would use a proxy from the environment, and that would resolve the name again.
            ("grpc.enable_http_proxy", 0),
            # Else a check would inherit the connection back-off of earlier checks.
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
                    raise ConnectFailedError(detail) from error
                if error.code() in NOT_GRPC:
                    raise ProbeUnansweredError(detail) from error
                raise ProbeFailedError(f"it answered {error.code().name}") from error
        if answer.status != health_pb2.HealthCheckResponse.SERVING:
            raise ProbeFailedError(f"it says {health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)}")
