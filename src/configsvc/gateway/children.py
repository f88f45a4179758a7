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
    """Runs in the child, before its program. Only Linux has this; on other systems a killed parent leaves orphans."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        # The parent died before the call, so that the signal will not come.
        os.kill(os.getpid(), signal.SIGKILL)


class Child:
    """One program. It shares its parent's output. Signals from the terminal reach the parent alone."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.name = name
        self._command = command
        self._environment = environment
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Starts the program. Raises `OSError` if the system can't."""
        parent = os.getpid()
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            env=self._environment,
            stdin=asyncio.subprocess.DEVNULL,
            # A session of its own: Ctrl-C is for the parent, which stops its children in order.
            start_new_session=True,
            preexec_fn=lambda: _die_with(parent),
        )

    @property
    def runs(self) -> bool:
        """Whether the program has started and not ended."""
        return self._process is not None and self._process.returncode is None

    async def wait(self) -> int:
        """Returns the exit status once the program has ended."""
        assert self._process is not None, "start comes first"
        return await self._process.wait()

    async def stop(self, within_seconds: float) -> None:
        """Asks the program to end, and kills it if it has not ended after `within_seconds`."""
        self._signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self.wait(), within_seconds)
        except TimeoutError:
            await self.kill_and_wait()

    def kill(self) -> None:
        """Kills the program, without waiting."""
        self._signal(signal.SIGKILL)

    async def kill_and_wait(self) -> None:
        """Kills the program; returns once it has ended."""
        self.kill()
        await self.wait()

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)
