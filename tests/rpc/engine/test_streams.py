"""Streams on both engines: order, metadata, callers that read slowly or not at all, and idle ones."""

import asyncio
from typing import Any

import grpc
import pytest

from tests.rpc.engine.conftest import Methods, ended, within

# More messages than any buffer of an engine has.
MESSAGES = 5_000


async def messages(call: Any) -> list[bytes]:
    return [message async for message in call]


@pytest.mark.parametrize("number", [0, 1, MESSAGES])
async def test_stream_has_its_messages_in_order_between_its_metadata(channel: Any, number: int) -> None:
    call = channel.unary_stream("/test.T/Stream")(b"%d" % number)
    assert await within(messages(call)) == [b"%d" % index for index in range(number)]
    # The native engine may lose it if there is no message; no stream of this service sends it then.
    assert dict(await call.initial_metadata()).get("initial") == "i" or not number
    assert dict(await call.trailing_metadata())["trailing"] == "t"
    assert await call.code() == grpc.StatusCode.OK


async def test_direct_writes_keep_their_place_among_the_others(channel: Any, kind: str) -> None:
    call = channel.unary_stream("/test.T/Direct")(b"%d" % MESSAGES)
    assert await within(messages(call)) == [b"%d" % index for index in range(MESSAGES)]
    taken = int(dict(await call.trailing_metadata())["taken"])
    # Only the native engine takes them, as long as the stream has room.
    assert (taken > 0) == (kind == "native")


@pytest.mark.parametrize("number", [0, 3])
async def test_stream_that_fails_has_its_messages_and_then_its_error(channel: Any, number: int) -> None:
    call = channel.unary_stream("/test.T/FailingStream")(b"%d" % number)
    assert [await within(call.read()) for _ in range(number)] == [b"%d" % index for index in range(number)]
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await within(call.read())
    assert (raised.value.code(), raised.value.details()) == (grpc.StatusCode.UNAVAILABLE, "gone")


async def test_stream_of_requests_is_served(channel: Any) -> None:
    call = channel.stream_stream("/test.T/Chat")()
    for message in (b"a", b"b"):
        await call.write(message)
        assert await within(call.read()) == message
    await call.done_writing()
    assert await ended(call) == grpc.StatusCode.OK


async def test_caller_that_reads_nothing_is_not_buffered_for_and_harms_nobody(
    address: str, channel: Any, methods: Methods
) -> None:
    echo = channel.unary_unary("/test.T/Echo")
    # A window of 64 KiB a stream, which does not grow.
    async with grpc.aio.insecure_channel(address, [("grpc.http2.bdp_probe", 0)]) as deaf:
        flood: Any = deaf.unary_stream("/test.T/Flood")
        calls = [flood(b"") for _ in range(20)]
        await within(methods.begun.wait())
        last = -1
        # The streams fill their windows; then nothing more is written.
        while methods.written != last:
            last = methods.written
            for _ in range(200):
                assert await within(echo(b"m")) == b"m"
        assert methods.written < 20 * 10
        for call in calls:
            call.cancel()
        await within(methods.cancelled.wait())


async def test_slow_reader_gets_everything(channel: Any, methods: Methods) -> None:
    call = channel.unary_stream("/test.T/Flood")(b"")
    for _ in range(100):
        assert len(await within(call.read())) == 64 << 10
        await asyncio.sleep(0)
    call.cancel()
    await within(methods.cancelled.wait())


async def test_idle_stream_of_a_client_that_pings_stays(address: str, methods: Methods) -> None:
    options = [("grpc.keepalive_time_ms", 20), ("grpc.keepalive_timeout_ms", 20_000), ("grpc.http2.max_pings_without_data", 0)]  # fmt: skip
    async with grpc.aio.insecure_channel(address, options) as channel:
        idle: Any = channel.unary_stream("/test.T/Idle")
        call = idle(b"")
        assert await within(call.read()) == b"first"
        # Without its settings, grpcio closes the connection after some pings.
        await asyncio.sleep(1)
        methods.go_on.set()
        assert await within(call.read()) == b"second"
        assert await ended(call) == grpc.StatusCode.OK
