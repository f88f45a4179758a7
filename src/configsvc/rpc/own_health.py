"""A server asks itself over its own socket whether it serves, as a load balancer would (grpc.health.v1)."""

import asyncio
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from configsvc.rpc.services import SERVICES


async def until_serving(address: str) -> None:
    """Returns once the server at `address` has said SERVING for itself as a whole and for each of its services."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        names = ("", *(service.descriptor.full_name for service in SERVICES))
        await asyncio.gather(*(_until_serving(stub, name) for name in names))


async def _until_serving(stub: Any, name: str) -> None:
    async for answer in stub.Watch(health_pb2.HealthCheckRequest(service=name), wait_for_ready=True):
        if answer.status == health_pb2.HealthCheckResponse.SERVING:
            return
