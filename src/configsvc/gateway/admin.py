"""Envoy's admin interface on its unix socket, as far as the supervisor needs it."""

import asyncio
import json

# The admin interface answers from memory; what takes longer is not there.
ANSWER_SECONDS = 2.0


async def ask(path: str, request: str, *, method: str = "GET") -> str:
    """The body of an answer.

    Raises:
        OSError: nobody answers, or not in time.
    """
    async with asyncio.timeout(ANSWER_SECONDS):
        reader, writer = await asyncio.open_unix_connection(path)
        try:
            writer.write(f"{method} {request} HTTP/1.0\r\nHost: admin\r\nContent-Length: 0\r\n\r\n".encode())
            await writer.drain()
            answer = await reader.read()
        finally:
            writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n", 1)[0] + b" ":
        raise OSError(f"Envoy's admin interface refused {request}: {head[:100]!r}")
    return body.decode()


async def listening_port(path: str) -> int:
    """The port of the one listener."""
    listeners = json.loads(await ask(path, "/listeners?format=json"))["listener_statuses"]
    return int(listeners[0]["local_address"]["socket_address"]["port_value"])


async def active_requests(path: str) -> int:
    """How many requests the listener carries, streams among them."""
    text = await ask(path, "/stats?filter=^http.gateway.downstream_rq_active$")
    return int(text.rpartition(":")[2].strip() or 0)


async def begin_drain(path: str) -> None:
    """Connections are told to go elsewhere as they answer; then the listener closes."""
    await ask(path, "/healthcheck/fail", method="POST")
    await ask(path, "/drain_listeners?graceful&skip_exit", method="POST")
