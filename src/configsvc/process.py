"""One server process: it serves until it is told to stop, and then ends within a bounded time."""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable, Sequence

from configsvc.clock import Clock
from configsvc.logs import write_as_json
from configsvc.settings import Settings, removed_settings
from configsvc.wiring import SYSTEM_CLOCK, build

logger = logging.getLogger(__name__)


async def serve(
    settings: Settings,
    listen: Sequence[str],
    ready: Callable[[], None] | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> None:
    """Runs one server until SIGTERM or SIGINT; then drains it."""
    write_as_json(settings.log_level)
    for line in removed_settings():
        logger.warning(line)
    stop = asyncio.Event()

    def asked() -> None:
        logger.info("stopping")
        _end_within(settings.stop_seconds)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, asked)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, logger.warning, "SIGHUP changes nothing")
    async with build(settings, listen, clock):
        if ready is not None:
            ready()
        await stop.wait()


def _end_within(seconds: float) -> None:
    """Ends the process where closing takes longer: a backend that is silent must not hold it.

    Nothing is lost by it. What was acknowledged is durable, and what this replica owns is adopted by the others.
    """

    def end() -> None:
        logger.error("closing took too long, and was ended", extra={"seconds": seconds})
        os._exit(os.EX_TEMPFAIL)

    watch = threading.Timer(seconds, end)
    watch.daemon = True
    watch.start()
