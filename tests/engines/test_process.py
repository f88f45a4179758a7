"""A supervised process: errors, signals, and that nothing outlives the test run."""

from __future__ import annotations

import json
import os
import pwd
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.engines import Process, ServiceError
from tests.engines.ports import Port
from tests.engines.process import User, run
from tests.engines.processes import SECONDS, alive, clean_environment, descendants, eventually
from tests.engines.versions import VERSIONS

_ROOT = Path(__file__).parents[2]


class TestProcess:
    def test_error_contains_the_log(self, tmp_path: Path) -> None:
        process = Process("Broken", ["sh", "-c", "echo no luck; exit 3"], directory=tmp_path)
        with pytest.raises(ServiceError, match=r"status 3(.|\n)*no luck"):
            process.start(lambda: False, timeout_seconds=SECONDS)

    def test_missing_command_is_named(self, tmp_path: Path) -> None:
        process = Process("Absent", ["/no/such/command"], directory=tmp_path)
        with pytest.raises(ServiceError, match=r"/no/such/command: .*No such file"):
            process.start(lambda: False, timeout_seconds=SECONDS)

    def test_process_that_is_never_ready_is_killed(self, tmp_path: Path) -> None:
        process = Process("Slow", ["sleep", "600"], directory=tmp_path)
        with pytest.raises(ServiceError, match="not ready within"):
            process.start(lambda: False, timeout_seconds=0.1)
        assert not process.running

    def test_disowneddescendants_are_paused_and_killed_too(self, tmp_path: Path) -> None:
        script = "(setsid sleep 600 & echo $! > child); exec sleep 600"
        process = Process("Family", ["sh", "-c", script], directory=tmp_path)
        child = tmp_path / "child"
        process.start(lambda: child.exists() and bool(child.read_text()), timeout_seconds=SECONDS)
        orphan = int(child.read_text())
        assert set(process.pids()) == {process.pid, orphan}
        process.pause()
        for pid in (process.pid, orphan):
            assert Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0] == "T"
        process.kill()
        assert not alive(orphan)

    def test_process_outlives_the_thread_that_started_it(self, tmp_path: Path) -> None:
        process = Process("sleep", ["sleep", "600"], directory=tmp_path)
        starter = threading.Thread(target=process.start, args=(lambda: True,), kwargs={"timeout_seconds": SECONDS})
        starter.start()
        starter.join()
        supervisor = process._supervisor
        assert supervisor is not None
        with pytest.raises(subprocess.TimeoutExpired):
            supervisor.wait(0.2)
        process.kill()

    def test_port_is_held_until_released(self, monkeypatch: pytest.MonkeyPatch) -> None:
        first = Port()
        monkeypatch.setattr("random.choice", lambda _: first.number)
        with pytest.raises(OSError, match="no free port"):
            Port()
        first.release()
        with Port() as second:
            assert second.number == first.number


_START_AND_REPORT = """
import json, os, sys
from tests.engines import Postgres, Valkey
postgres, valkey = Postgres(), Valkey()
postgres.start(); valkey.start()
print(json.dumps([
    [str(s.process.log_file.parent), s.process.pids(), s.version] for s in (postgres, valkey)
]), flush=True)
sys.stdin.read()
postgres.close(); valkey.close()
"""


class TestNothingIsLeftBehind:
    def test_services_end_when_the_test_process_is_killed(self) -> None:
        with subprocess.Popen(
            [sys.executable, "-c", _START_AND_REPORT],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=clean_environment(),
        ) as child:
            assert child.stdout is not None
            reports = json.loads(child.stdout.readline())
            pids = [pid for _, found, _ in reports for pid in found]
            assert all(alive(pid) for pid in pids)
            child.kill()
        eventually(lambda: not any(alive(pid) for pid in pids))
        eventually(lambda: not any(Path(directory).exists() for directory, _, _ in reports))

    def test_services_end_when_make_services_gets_sigterm(self) -> None:
        with subprocess.Popen(
            [sys.executable, "-m", "tests.engines"],
            cwd=_ROOT,
            stdout=subprocess.PIPE,
            env=clean_environment(),
            text=True,
        ) as child:
            assert child.stdout is not None
            versions = child.stdout.readline()
            line = ", ".join(f"({pattern})" for pattern in VERSIONS.values())
            assert re.fullmatch(f"# {line}\n", versions), versions
            exported = [child.stdout.readline() for _ in range(6)]
            assert [text.partition("=")[0] for text in exported] == [
                "export DATABASE_URL",
                "export REDIS_HOST",
                "export REDIS_PORT",
                "export REDIS_PASSWORD",
                "export KAFKA_BOOTSTRAP_SERVERS",
                "export ZOOKEEPER_HOSTS",
            ]
            pids = descendants(child.pid)
            assert len(pids) >= 8
            child.send_signal(signal.SIGTERM)
            assert child.wait(SECONDS) == 0
        assert not any(alive(pid) for pid in pids)


def _as(user: User) -> list[str]:
    """The prefix for a Python command that runs it as `user`, who is not root.

    If the interpreter is in root's home, the user gets one capability: to read it.
    """
    plain = [
        *("setpriv", f"--reuid={user.uid}", f"--regid={user.gid}", "--clear-groups"),
        "--bounding-set=-all",
    ]
    looking = [*plain[:-1], "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    tried = []
    for prefix in (plain, looking):
        try:
            run([*prefix, sys.executable, "-c", "import tests.engines"], timeout_seconds=SECONDS)
        except ServiceError as error:
            tried.append(str(error))
        else:
            return prefix
    pytest.skip(f"{user.name} can't run {sys.executable}: {tried}")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change the user")
def test_services_work_for_a_user_who_is_not_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(_ROOT))
    entry = pwd.getpwnam("nobody")
    nobody = User("nobody", entry.pw_uid, entry.pw_gid)
    command = [*_as(nobody), sys.executable, "-c", _START_AND_REPORT]
    reports = json.loads(run(command, timeout_seconds=SECONDS))
    for (directory, pids, version), name in zip(reports, ("postgres", "valkey"), strict=True):
        assert re.fullmatch(VERSIONS[name], version)
        assert not any(alive(pid) for pid in pids)
        assert not Path(directory).exists()
