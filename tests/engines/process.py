"""A private service process: start, wait until ready, pause, kill, restart; never left behind.

`Process` runs one command under `supervisor.py`, which is what makes "never left behind" hold even
when the test process is killed. It knows no particular service: the caller passes a function that
says whether the service is ready.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_POLL_SECONDS = 0.01
"""How often a condition is checked; the services here are ready within 20 ms to 3 s."""
_KILLED_SECONDS = 20.0
"""How long a killed process may take to end: it may have much memory to free."""
_TAIL_LINES = 25


class ServiceError(RuntimeError):
    """A service could not be found or started, or did not obey. The message says what was tried."""


@dataclass(frozen=True, slots=True)
class User:
    """The operating system user that a process runs as."""

    name: str
    uid: int
    gid: int


def own_user() -> User:
    return User("", os.geteuid(), os.getegid())


class Process:
    """One supervised process. After it ended, `start` may be called again on the same directory.

    Not safe for use from several threads at once. Everything that the process prints goes to
    `log_file`, which later starts append to.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        directory: Path,
        environ: Mapping[str, str] | None = None,
        user: User | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        self._name = name
        self._command = list(command)
        self._directory = directory
        self._environ = dict(environ or {})
        self._user = user or own_user()
        self._stop_signal = stop_signal
        self._supervisor: subprocess.Popen[bytes] | None = None
        self.pid = 0
        """The pid of the service itself, while it runs."""
        self.log_file = directory / "log.txt"

    @property
    def running(self) -> bool:
        return self._supervisor is not None and self._supervisor.poll() is None

    def start(self, ready: Callable[[], bool], *, timeout_seconds: float) -> None:
        """Starts the process; returns when `ready()` is true.

        Raises ServiceError, with the log's last lines, if the process ends first or isn't ready
        in time; it has been killed by then.
        """
        if self.running:
            raise ServiceError(f"{self._name} is already running (pid {self.pid})")
        with self.log_file.open("ab") as log:
            self._supervisor = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S"),
                    str(Path(__file__).with_name("supervisor.py")),
                    *(str(os.getpid()), str(self._user.uid), str(self._user.gid)),
                    *(str(int(self._stop_signal)), str(self._directory)),
                    *self._command,
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=self._directory,
                env={**os.environ, **self._environ},
                # A separate session: Ctrl-C at a terminal must reach only the test process.
                start_new_session=True,
            )
        assert self._supervisor.stdout is not None
        with self._supervisor.stdout as pid_line:
            self.pid = int(pid_line.readline() or 0)
        try:
            self._wait_ready(ready, timeout_seconds)
        except BaseException:
            self.kill()
            raise

    def _wait_ready(self, ready: Callable[[], bool], timeout_seconds: float) -> None:
        deadline = time.monotonic() + timeout_seconds
        while not ready():
            if self._ended_within(_POLL_SECONDS):
                assert self._supervisor is not None
                what = f"ended with status {self._supervisor.returncode} before it was ready"
                raise ServiceError(f"{self._name} {what}\n{self.describe()}")
            if time.monotonic() > deadline:
                what = f"was not ready within {timeout_seconds:.0f} s"
                raise ServiceError(f"{self._name} {what}\n{self.describe()}")

    def _ended_within(self, seconds: float) -> bool:
        if self._supervisor is None:
            return True
        try:
            self._supervisor.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def stop(self, *, timeout_seconds: float = 30.0) -> None:
        """Asks it to stop, and kills it after the time-out. Does nothing if it isn't running."""
        if self.running:
            self._signal(self.pid, self._stop_signal)
            self.resume()
            if not self._ended_within(timeout_seconds):
                self.kill()

    def kill(self) -> None:
        """Sends SIGKILL to it and all its descendants. Does nothing if it isn't running."""
        if not self.running:
            return
        for pid in self._freeze():
            self._signal(pid, signal.SIGKILL)
        if not self._ended_within(_KILLED_SECONDS):
            raise ServiceError(f"{self._name} (pid {self.pid}) outlived SIGKILL")

    def pause(self) -> None:
        """Sends SIGSTOP to it and all its descendants; returns when all have stopped."""
        if not self.running:
            raise ServiceError(f"{self._name} isn't running")
        self._freeze()

    def resume(self) -> None:
        """Sends SIGCONT to all of them. Does nothing if it isn't paused."""
        for pid in self.pids():
            self._signal(pid, signal.SIGCONT)

    def pids(self) -> list[int]:
        """The service and its descendants that have not ended."""
        if self._supervisor is None or not self.running:
            return []
        processes = _processes()
        family = [self._supervisor.pid]
        for pid in family:
            family += [child for child, (parent, _) in processes.items() if parent == pid]
        return [pid for pid in family[1:] if processes[pid][1] not in "ZX"]

    def memory_bytes(self) -> int:
        """The memory of the service and its descendants; shared pages count once (PSS)."""
        return sum(_memory_bytes(pid) for pid in self.pids())

    def describe(self) -> str:
        """The command and the end of its log, for error messages."""
        lines = self.log_file.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
        return "\n".join(
            [f"  command: {' '.join(self._command)}", f"  log: {self.log_file}"] + [f"  | {line}" for line in lines]
        )

    def _freeze(self) -> list[int]:
        """Stops all of them, repeatedly until none can have forked another; returns their pids."""
        deadline = time.monotonic() + _KILLED_SECONDS
        while self.running:
            pids = self.pids()
            states = {pid: state for pid, (_, state) in _processes().items()}
            moving = [pid for pid in pids if states.get(pid, "X") not in "TtZX"]
            if not moving:
                return pids
            if time.monotonic() > deadline:
                raise ServiceError(f"{self._name}: {moving} did not stop at SIGSTOP")
            for pid in moving:
                self._signal(pid, signal.SIGSTOP)
        return []

    @staticmethod
    def _signal(pid: int, number: signal.Signals) -> None:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return


def _processes() -> dict[int, tuple[int, str]]:
    """Parent and state of every process, by pid (proc(5), `stat`)."""
    found = {}
    for entry in os.listdir("/proc"):
        if not entry.isdecimal():
            continue
        try:
            stat = Path("/proc", entry, "stat").read_text(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        # The name in parentheses may contain anything: the fields begin after its end.
        state, parent, *_ = stat.rpartition(")")[2].split()
        found[int(entry)] = (int(parent), state)
    return found


def _memory_bytes(pid: int) -> int:
    try:
        lines = Path("/proc", str(pid), "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def run(command: Sequence[str], *, user: User | None = None, timeout_seconds: float) -> str:
    """Runs a short command; returns its output, including standard error.

    Raises ServiceError with the output if it fails, can't be run, or takes too long.
    """
    # Only root can set an empty list of groups, and only root runs commands as another user.
    groups: dict[str, object] = {}
    if user is not None and user.uid != os.geteuid():
        groups = {"user": user.uid, "group": user.gid, "extra_groups": []}
    text = " ".join(command)
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_seconds,
            check=False,
            text=True,
            errors="replace",
            cwd="/",
            **groups,  # type: ignore[call-overload]
        )
    except OSError as error:
        raise ServiceError(f"{text}: {error}") from error
    except subprocess.TimeoutExpired as error:
        raise ServiceError(f"{text}: not done within {timeout_seconds:.0f} s") from error
    output = str(done.stdout)
    if done.returncode != 0:
        tail = "\n".join(f"  | {line}" for line in output.splitlines()[-_TAIL_LINES:])
        raise ServiceError(f"{text}: exit status {done.returncode}\n{tail}")
    return output
