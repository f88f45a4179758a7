"""Child processes that never outlive their parent."""

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Mapping, Sequence

# linux/prctl.h: the signal that a process gets when its parent dies.
PR_SET_PDEATHSIG = 1


def _die_with(parent: int) -> None:
    """Runs in the child, before its program. Other systems have no such thing; there a killed parent leaves orphans."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        # The parent died before it could matter.
        os.kill(os.getpid(), signal.SIGKILL)


class Child:
    """One program. Its output goes where the parent's goes. Terminal signals reach the parent alone."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.name = name
        self._command = command
        self._environment = environment
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Starts the program."""
        parent = os.getpid()
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            env=self._environment,
            stdin=asyncio.subprocess.DEVNULL,
            # A session of its own: Ctrl-C is for the parent, which stops its children in order.
            start_new_session=True,
            preexec_fn=lambda: _die_with(parent),
        )

    async def wait(self) -> int:
        """Returns the exit status when the program has ended."""
        assert self._process is not None, "start comes first"
        return await self._process.wait()

    async def stop(self, within_seconds: float) -> None:
        """Asks the program to end, and kills it where it has not after `within_seconds`."""
        self._signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self.wait(), within_seconds)
        except TimeoutError:
            self.kill()
            await self.wait()

    def kill(self) -> None:
        """Ends the program at once."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)
