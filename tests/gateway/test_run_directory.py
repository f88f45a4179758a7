"""The directory of one run: removed by the run, or by the next one if it was killed; never while its run is alive."""

import multiprocessing
import os
import signal
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from configsvc.gateway.run_directory import LOCK, run_directory


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def run_until_killed(base: str, started: Connection) -> None:
    """The program of a run's process."""
    tempfile.tempdir = base
    with run_directory() as directory:
        (directory / "worker-0.sock").touch()
        started.send(str(directory))
        signal.pause()


class Run:
    """A run as a process of its own."""

    def __init__(self, base: Path) -> None:
        context = multiprocessing.get_context("spawn")
        receiver, sender = context.Pipe()
        self._process = context.Process(target=run_until_killed, args=(str(base), sender))
        self._process.start()
        self.directory = Path(receiver.recv())

    def kill(self) -> None:
        self._process.kill()
        self._process.join()


def test_run_removes_its_own_directory(temporary: Path) -> None:
    with run_directory() as directory:
        assert directory.stat().st_mode & 0o077 == 0
    assert list(temporary.iterdir()) == []


def test_next_run_removes_directories_of_killed_runs_and_nothing_else(temporary: Path) -> None:
    killed, alive = [Run(temporary), Run(temporary)], Run(temporary)
    try:
        for run in killed:
            run.kill()
        foreign = [temporary / "configsvc-postgres-x", temporary / "other"]
        for directory in foreign:
            directory.mkdir()
        (temporary / "configsvc-link").symlink_to(foreign[1])
        (foreign[1] / LOCK).symlink_to("/dev/null")
        with run_directory() as own:
            assert not any(run.directory.exists() for run in killed)
            assert (alive.directory / "worker-0.sock").exists()
            assert all(directory.exists() for directory in foreign)
            assert {own, alive.directory} < set(temporary.iterdir())
    finally:
        alive.kill()


def test_runs_that_start_at_once_keep_their_directories(temporary: Path) -> None:
    runs = [Run(temporary) for _ in range(4)]
    try:
        assert len({run.directory for run in runs}) == 4
        assert all((run.directory / LOCK).exists() for run in runs)
    finally:
        for run in runs:
            run.kill()
    assert os.listdir(temporary)
    with run_directory() as own:
        assert list(temporary.iterdir()) == [own]
