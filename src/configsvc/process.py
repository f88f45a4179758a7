"""One server process: it serves until a signal stops it, and then ends within a bounded time."""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Sequence

from configsvc.clock import Clock
from configsvc.logs import write_as_json
from configsvc.settings import Settings, removed_settings
from configsvc.wiring import SYSTEM_CLOCK, build

logger = logging.getLogger(__name__)


async def serve(settings: Settings, listen: Sequence[str], clock: Clock = SYSTEM_CLOCK) -> None:
    """Runs one server until SIGTERM or SIGINT; then drains it."""
    write_as_json(settings.log_level)
    for line in removed_settings():
        logger.warning(line)
    stop = asyncio.Event()

    def on_stop_signal() -> None:
        logger.info("stopping")
        _end_within(settings.stop_seconds)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_stop_signal)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, logger.warning, "SIGHUP changes nothing")
    async with build(settings, listen, clock):
        await stop.wait()


def _end_within(seconds: float) -> None:
    """Ends the process if closing takes longer than this, since a backend that hangs must not keep it alive.

    Nothing is lost: what was acknowledged is durable, and other replicas adopt the instances of this one.
    """

    def end() -> None:
        logger.error("closing took too long; the process ends now", extra={"seconds": seconds})
        os._exit(os.EX_TEMPFAIL)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
