"""One server process: it serves until a signal stops it, and then ends within a bounded time."""

import asyncio
import fcntl
import gc
import logging
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from configsvc.clock import Clock
from configsvc.logs import write_as_json
from configsvc.rpc.own_health import until_serving
from configsvc.settings import Settings, removed_settings
from configsvc.tasks import BackgroundTasks
from configsvc.wiring import SYSTEM_CLOCK, build

logger = logging.getLogger(__name__)

# No event tells that a turn has come.
TURN_POLL_SECONDS = 0.01

# After so many collections of the middle generation, Python collects all objects, if a quarter of them is new. Its own
# number is 10: each time that the set of flags or the registry grew by a few thousand objects. A full collection stops
# the process for as long as it takes to look at every object, 10,000 flags have 340,000, and finds next to nothing. What
# ends in a call or soon afterwards is found by the collections of the two young generations, which stay as they are.
FULL_COLLECTION_AFTER = 100


@dataclass(frozen=True, slots=True)
class Supervision:
    """How a process works together with the supervisor that replaces it (`gateway/workers.py`).

    `state_file`: where the process says `waiting` and `serving`. `turn`: a file that one process at a time has locked; this
    one opens no backend before it has the lock.
    """

    state_file: Path | None = None
    turn: Path | None = None

    def report(self, state: str) -> None:
        """Writes the state, if anybody wants to know it."""
        if self.state_file is not None:
            self.state_file.write_text(state, "ascii")


ALONE = Supervision()


async def serve(
    settings: Settings, listen: Sequence[str], clock: Clock = SYSTEM_CLOCK, supervision: Supervision = ALONE
) -> None:
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
    supervision.report("waiting")
    with _lockable(supervision.turn) as turn:
        while not _locked(turn):
            if stop.is_set():
                return
            await clock.sleep(TURN_POLL_SECONDS)
        async with build(settings, listen, clock):
            tasks = BackgroundTasks("process")
            tasks.start(_report_serving(listen[0], supervision))
            await stop.wait()
            await tasks.stop()


def make_full_collections_rare() -> None:
    """Sets Python's garbage collector up for a process that holds many objects for long. Call it before it serves."""
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, FULL_COLLECTION_AFTER)
    # The modules stay until the process ends, so no collection needs to look at them.
    gc.collect()
    gc.freeze()


async def _report_serving(address: str, supervision: Supervision) -> None:
    if supervision.state_file is not None:
        await until_serving(address)
        supervision.report("serving")


@contextmanager
def _lockable(file: Path | None) -> Iterator[int | None]:
    """A descriptor of the file; closing it drops the lock. The system does so if the process is killed."""
    if file is None:
        yield None
        return
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _locked(descriptor: int | None) -> bool:
    """Locks the file if no other process has; returns whether this one has it."""
    try:
        if descriptor is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


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
