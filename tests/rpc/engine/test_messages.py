"""Large and compressed messages on both engines."""

from typing import Any

import grpc
import pytest

from tests.rpc.engine.conftest import ended
from tests.rpc.engines import MAX_REQUEST_BYTES

MIB = 1 << 20


@pytest.mark.parametrize("size", [4 * MIB, MAX_REQUEST_BYTES])
async def test_message_up_to_the_limit_is_answered(channel: Any, size: int) -> None:
    message = bytes(range(256)) * (size // 256)
    assert await channel.unary_unary("/test.T/Echo")(message) == message


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
async def test_message_over_the_limit_is_refused_and_others_are_answered(channel: Any, compression: Any) -> None:
    echo = channel.unary_unary("/test.T/Echo")
    call = echo(b"x" * (MAX_REQUEST_BYTES + 1), compression=compression)
    assert await ended(call) == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (await call.details()).endswith(f"larger than max ({MAX_REQUEST_BYTES + 1} vs. {MAX_REQUEST_BYTES})")
    assert await echo(b"m") == b"m"


async def test_compressed_message_is_read(channel: Any) -> None:
    message = b"x" * MIB
    assert await channel.unary_unary("/test.T/Echo")(message, compression=grpc.Compression.Gzip) == message
