"""What a caller of a unary method gets, whatever the engine."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import grpc
import pytest

from configsvc.rpc.engine import EngineMethod
from tests.rpc.engine.conftest import ended
from tests.rpc.engines import serving


async def test_answer_has_the_message_and_the_trailers(channel: Any) -> None:
    sent = (("echo-a", "1"), ("echo-a", "2"), ("echo-b-bin", b"\x00\xff"), ("other", "x"))
    call = channel.unary_unary("/test.T/Echo")(b"m", metadata=sent)
    assert await call == b"m"
    trailing = [(key, value) for key, value in await call.trailing_metadata() if key != "peer"]
    assert trailing == [("echo-a", "1"), ("echo-a", "2"), ("echo-b-bin", b"\x00\xff")]
    assert dict(await call.trailing_metadata())["peer"].startswith("ipv4:127.0.0.1:")


async def test_empty_message_is_a_message(channel: Any) -> None:
    assert await channel.unary_unary("/test.T/Echo")(b"") == b""


@pytest.mark.parametrize("size", [1, 6_000])
async def test_error_has_its_message_details_and_trailers(channel: Any, size: int) -> None:
    """The details are as large as the service makes them (`rpc/status.py`)."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await channel.unary_unary("/test.T/Abort")(b"\xfe" * size)
    error: Any = raised.value
    assert (error.code(), error.details()) == (grpc.StatusCode.ABORTED, "näh: 100 %")
    expected = {("grpc-status-details-bin", b"\xfe" * size), ("k", "v"), ("k", "w")}
    assert {(key, value) for key, value in error.trailing_metadata()} == expected


async def test_fault_of_a_handler_is_an_error_and_others_are_answered(channel: Any) -> None:
    call = channel.unary_unary("/test.T/Broken")(b"")
    assert await ended(call) in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
    assert await channel.unary_unary("/test.T/Echo")(b"m") == b"m"


async def test_unknown_method_is_unimplemented_and_logged(channel: Any, caplog: pytest.LogCaptureFixture) -> None:
    for path in ("/test.T/Nothing", "/test.Nothing/Echo"):
        with caplog.at_level("INFO", "access"):
            assert await ended(channel.unary_unary(path)(b"")) == grpc.StatusCode.UNIMPLEMENTED
        record: Any = caplog.records[-1]
        assert (record.method, record.code) == (path, "UNIMPLEMENTED")


@pytest.mark.parametrize("size", [90 << 10, 250 << 10])
async def test_metadata_up_to_the_limit_is_accepted(channel: Any, size: int) -> None:
    assert await channel.unary_unary("/test.T/Echo")(b"m", metadata=(("k", "x" * size),)) == b"m"


async def test_metadata_over_the_limit_is_refused_and_others_are_answered(channel: Any) -> None:
    call = channel.unary_unary("/test.T/Echo")(b"m", metadata=(("k", "x" * (300 << 10)),))
    # The native engine answers with the HTTP status 431, which clients don't know, and resets the stream: a client may see
    # that first.
    refused = grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL
    assert await ended(call) in refused
    assert await channel.unary_unary("/test.T/Echo")(b"m") == b"m"


async def test_metadata_that_cannot_be_sent_is_an_error_and_others_are_answered(kind: str) -> None:
    async def odd(received: bytes, context: Any) -> bytes:
        context.set_trailing_metadata((("k", "line\nbreak"),) if received else ())
        return received

    async with (
        serving(kind, [EngineMethod("/test.T/Odd", odd)]) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        call: Any = channel.unary_unary("/test.T/Odd")
        assert await ended(call(b"m")) in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
        assert await call(b"") == b""


class Answer(NamedTuple):
    message: bytes
    trailing_metadata: Sequence[tuple[str, str]]
    details: str = ""


async def test_quick_read_answers_in_place_of_the_method(kind: str) -> None:
    asked = []

    def quick(received: bytes, metadata: Any) -> Answer | None:
        asked.append((received, dict(metadata)["mine"]))
        return Answer(b"quick", (("from", "memory"),)) if received == b"known" else None

    async def run(received: bytes, context: Any) -> bytes:
        return b"slow"

    method = EngineMethod("/test.T/Read", run, quick_read=quick)
    async with serving(kind, [method]) as address, grpc.aio.insecure_channel(address) as channel:
        read: Any = channel.unary_unary("/test.T/Read")
        call = read(b"known", metadata=(("mine", "1"),))
        assert await call == b"quick"
        assert list(await call.trailing_metadata()) == [("from", "memory")]
        assert await read(b"other", metadata=(("mine", "2"),)) == b"slow"
    assert asked == [(b"known", "1"), (b"other", "2")]


async def test_method_answers_if_the_native_engine_cannot_send_a_quick_answer(caplog: pytest.LogCaptureFixture) -> None:
    async def run(received: bytes, context: Any) -> bytes:
        return b"slow"

    method = EngineMethod("/test.T/Read", run, quick_read=lambda received, metadata: Answer(b"", (("k", "a\nb"),)))
    async with serving("native", [method]) as address, grpc.aio.insecure_channel(address) as channel:
        read: Any = channel.unary_unary("/test.T/Read")
        assert await read(b"") == b"slow"
    assert "a quick read failed" in caplog.text
