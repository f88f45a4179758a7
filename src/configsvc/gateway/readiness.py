"""Announces on standard output that the service is ready, for people and for programs that start it."""

import asyncio
import contextlib
import logging
import sys

import httpx

from configsvc.clock import Clock
from configsvc.gateway import admin
from configsvc.settings import Settings

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.02
# The service waits for a backend that can't be reached, as long as it takes. It is reported every so often.
NOT_READY_SECONDS = 30.0


async def announce_when_ready(settings: Settings, admin_path: str, clock: Clock, started_at: float) -> None:
    """Returns when `/ready` answers 200 through Envoy's listener, and has been announced.

    If `PORT` is 0, Envoy has chosen one, and its admin interface at `admin_path` knows which.
    """
    host, port = settings.host, settings.port
    reported_at = started_at
    while True:
        with contextlib.suppress(OSError, httpx.HTTPError, ValueError, IndexError, KeyError):
            port = port or await admin.listening_port(admin_path)
            if await _is_ready(host, port):
                break
        if clock.monotonic() - reported_at > NOT_READY_SECONDS:
            reported_at = clock.monotonic()
            logger.warning("not ready after %.0f s; http://localhost:%d/ready says why", reported_at - started_at, port)
        await clock.sleep(POLL_SECONDS)
    seconds = clock.monotonic() - started_at
    workers = f"{settings.workers} worker" + ("s" if settings.workers > 1 else "")
    where = f"http://localhost:{port} (REST, gRPC, gRPC-Web)"
    sys.stdout.write(f"configsvc is ready on {where} with {workers} after {seconds:.1f} s\n")
    sys.stdout.flush()


async def _is_ready(host: str, port: int) -> bool:
    # A listener on all addresses is reached at the loopback address.
    reader, writer = await asyncio.open_connection({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port)
    try:
        writer.write(b"GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        await writer.drain()
        return (await reader.readline()).split(b" ")[1:2] == [b"200"]
    finally:
        writer.close()
