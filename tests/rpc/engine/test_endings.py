"""How calls end before their answer: deadlines, callers that leave, a server that stops."""

import asyncio
from typing import Any

import grpc
import pytest

from configsvc.rpc.engine import EngineOptions
from tests.rpc.engine.conftest import MESSAGE_OPTIONS, Methods, ended, within
from tests.rpc.engines import ENGINES, MAX_REQUEST_BYTES


async def test_deadline_ends_the_call_and_its_task(channel: Any, methods: Methods) -> None:
    call = channel.unary_unary("/test.T/Hold")(b"", timeout=0.2)
    assert await ended(call) == grpc.StatusCode.DEADLINE_EXCEEDED
    await within(methods.cancelled.wait())
    (context,) = methods.contexts
    assert context.time_remaining() == 0


async def test_method_knows_the_time_that_remains(channel: Any, methods: Methods) -> None:
    for timeout in (None, 100):
        call = channel.unary_unary("/test.T/Hold")(b"", timeout=timeout)
        await within(methods.begun.wait())
        remaining = methods.contexts[-1].time_remaining()
        # A client may round the time up.
        assert remaining is None or remaining > 1_000 if timeout is None else 99 < remaining < 101
        call.cancel()
        methods.begun.clear()


async def test_caller_that_leaves_ends_the_task(channel: Any, methods: Methods) -> None:
    call = channel.unary_unary("/test.T/Hold")(b"")
    await within(methods.begun.wait())
    call.cancel()
    await within(methods.cancelled.wait())


async def test_caller_that_disconnects_ends_its_tasks(address: str, methods: Methods) -> None:
    channel: Any = grpc.aio.insecure_channel(address)
    call = channel.unary_unary("/test.T/Hold")(b"")
    await within(methods.begun.wait())
    await channel.close()
    await within(methods.cancelled.wait())
    assert await ended(call) == grpc.StatusCode.CANCELLED


async def test_stop_lets_a_running_call_end(kind: str, methods: Methods) -> None:
    engine = ENGINES[kind](EngineOptions(MAX_REQUEST_BYTES, lambda path: None))
    (port,) = await engine.start(methods.all(), ["127.0.0.1:0"])
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", MESSAGE_OPTIONS) as channel:
        hold: Any = channel.unary_unary("/test.T/Hold")
        call = hold(b"m")
        await within(methods.begun.wait())
        stopping = asyncio.ensure_future(engine.stop(30))
        await asyncio.sleep(0)
        assert not stopping.done()
        methods.go_on.set()
        assert await within(call) == b"m"
        await within(stopping)
        assert await ended(hold(b"m", timeout=5)) == grpc.StatusCode.UNAVAILABLE


async def test_stop_ends_what_outlasts_the_grace(kind: str, methods: Methods) -> None:
    engine = ENGINES[kind](EngineOptions(MAX_REQUEST_BYTES, lambda path: None))
    (port,) = await engine.start(methods.all(), ["127.0.0.1:0"])
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        hold: Any = channel.unary_unary("/test.T/Hold")
        call = hold(b"m")
        await within(methods.begun.wait())
        await within(engine.stop(0.1))
        assert await ended(call) in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        assert methods.cancelled.is_set()


async def test_address_in_use_is_refused(kind: str, address: str, methods: Methods) -> None:
    engine = ENGINES[kind](EngineOptions(MAX_REQUEST_BYTES, lambda path: None))
    with pytest.raises(RuntimeError, match=address.rpartition(":")[2]):
        await engine.start(methods.all(), [address])
    await engine.stop(0)
