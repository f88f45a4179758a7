"""The parent of one private service process, so that nothing outlives a test run.

Run as a script by `process.Process`, with the standard library only (`python -I -S`).
It forks the service (optionally as another user) and waits for the first of these to end:

- the service: every process that the service left behind is killed, and this process exits with its status;
- the process that started it, even by `kill -9`: the service is asked to stop, then killed with all
  its descendants, and its directory is removed.

It is a child subreaper (prctl(2)): processes that the service forks and disowns become its
children, so it can wait for the last of them. If this process itself is killed, the parent-death
signal ends the service. That signal belongs to the thread that forked. So a thread of a test
process can't be the parent: when it ends, the service would end too.
"""

from __future__ import annotations

import ctypes
import os
import select
import shutil
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_PR_SET_CHILD_SUBREAPER = 36
_ORPHAN_GRACE_MILLISECONDS = 5_000
"""How long a service may take to stop after the test process has ended."""


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def _children() -> list[int]:
    me = os.getpid()
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdecimal():
            continue
        try:
            stat = Path("/proc", entry, "stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        # The name in parentheses may contain anything: the fields begin after its end.
        if int(stat.rpartition(")")[2].split()[1]) == me:
            found.append(int(entry))
    return found


def _kill_all() -> None:
    """Kills and reaps children until there are none; each pass adopts the children of the previous one."""
    while True:
        for pid in _children():
            os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _become(user: int, group: int, parent: int, command: list[str]) -> None:
    """Replaces the child process by the service. Does not return."""
    try:
        os.dup2(2, 1)
        if user != os.geteuid():
            os.setgroups([])
            os.setgid(group)
            os.setuid(user)
        # After the change of user, because that clears it.
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        os.execvp(command[0], command)
    except OSError as error:
        os.write(2, f"{command[0]}: {error}\n".encode())
    os._exit(127)


def main(arguments: list[str]) -> int:
    owner, user, group, stop_signal = (int(value) for value in arguments[:4])
    directory, command = arguments[4], arguments[5:]
    owner_ends = os.pidfd_open(owner)
    if os.getppid() != owner:
        return 1
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    me = os.getpid()
    service = os.fork()
    if service == 0:
        _become(user, group, me, command)
    os.write(1, f"{service}\n".encode())
    os.close(1)
    service_ends = os.pidfd_open(service)
    poll = select.poll()
    poll.register(owner_ends, select.POLLIN)
    poll.register(service_ends, select.POLLIN)
    if owner_ends in (descriptor for descriptor, _ in poll.poll()):
        os.kill(service, stop_signal)
        os.kill(service, signal.SIGCONT)
        poll.unregister(owner_ends)
        if not poll.poll(_ORPHAN_GRACE_MILLISECONDS):
            os.kill(service, signal.SIGKILL)
        os.waitpid(service, 0)
        _kill_all()
        shutil.rmtree(directory, ignore_errors=True)
        return 1
    _, status = os.waitpid(service, 0)
    _kill_all()
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
