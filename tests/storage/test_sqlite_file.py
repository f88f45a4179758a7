"""The embedded database's file: it has one owner, is private, and its removal is detected."""

import asyncio
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from configsvc.errors import ServiceError, Unavailable
from configsvc.storage.sqlite.file_check import WATCH_SECONDS, FileCheck
from configsvc.storage.sqlite.storage import SqliteStorage
from tests.app.fake_clock import FakeClock
from tests.conformance.storage.writing import config, create

OPEN_AND_SAY = """
import asyncio, sys
from pathlib import Path
from configsvc.storage.sqlite.storage import SqliteStorage
async def main():
    async with SqliteStorage(Path(sys.argv[1])):
        print("opened")
asyncio.run(main())
"""


def symbolic_link(path: Path) -> Path:
    link = path.with_name("symbolic.db")
    link.symlink_to(path)
    return link


def hard_link(path: Path) -> Path:
    link = path.with_name("hard.db")
    link.hardlink_to(path)
    return link


def through_linked_directory(path: Path) -> Path:
    link = path.parent.with_name(f"{path.parent.name}-link")
    link.symlink_to(path.parent)
    return link / path.name


def removed_lock_file(path: Path) -> Path:
    Path(f"{path}.lock").unlink()
    return path


@pytest.mark.parametrize("other_way", [symbolic_link, hard_link, through_linked_directory, removed_lock_file])
async def test_second_process_is_refused_by_every_path(tmp_path: Path, other_way: Callable[[Path], Path]) -> None:
    path = tmp_path / "configsvc.db"
    async with SqliteStorage(path) as storage:
        await storage.write(create(config("a")))
        with pytest.raises(Unavailable) as refused:
            async with SqliteStorage(other_way(path)):
                pass
        assert refused.value.reason == "STORAGE_IN_USE"
        command = [sys.executable, "-c", OPEN_AND_SAY, str(other_way(path)) if other_way is removed_lock_file else path]
        second = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True)
        assert "STORAGE_IN_USE" in second.stderr or "is in use by process" in second.stderr, second.stderr
        # The attempt did not release the owner's locks.
        await storage.write(create(config("b")))
        assert (await storage.state()).head == 2


async def test_files_and_directory_are_private(tmp_path: Path) -> None:
    path = tmp_path / "made" / "configsvc.db"
    before = os.umask(0)
    try:
        async with SqliteStorage(path) as storage:
            await storage.write(create(config("a")))
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert set(modes) == {f"configsvc.db{end}" for end in ("", "-wal", "-shm", ".lock")}
    assert set(modes.values()) == {0o600}, modes
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_file_of_an_earlier_release_is_made_private(tmp_path: Path) -> None:
    path = tmp_path / "configsvc.db"
    async with SqliteStorage(path):
        pass
    path.chmod(0o644)
    async with SqliteStorage(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def remove(path: Path) -> None:
    path.unlink()


def remove_all(path: Path) -> None:
    for file in path.parent.glob("configsvc.db*"):
        file.unlink()


def remove_log(path: Path) -> None:
    Path(f"{path}-wal").unlink()


def replace(path: Path) -> None:
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    copy.replace(path)


def replace_log(path: Path) -> None:
    copy = path.with_name("copy")
    copy.write_bytes(b"")
    copy.replace(Path(f"{path}-wal"))


def rename_directory(path: Path) -> None:
    path.parent.rename(path.parent.with_name("elsewhere"))


def truncate(path: Path) -> None:
    os.truncate(path, 0)


@pytest.mark.parametrize(
    "take_away", [remove, remove_all, remove_log, replace, replace_log, rename_directory, truncate]
)
async def test_no_write_is_acknowledged_after_the_file_is_gone(
    tmp_path: Path, take_away: Callable[[Path], None]
) -> None:
    path = tmp_path / "data" / "configsvc.db"
    async with SqliteStorage(path) as storage:
        await storage.write(create(config("before")))
        await storage.ping()
        take_away(path)
        for key in ("first", "second"):
            with pytest.raises(Unavailable) as refused:
                await storage.write(create(config(key)))
            assert refused.value.reason == "STORAGE_GONE", refused.value
        with pytest.raises(Unavailable, match="restore it, and start again"):
            await storage.ping()
        # Reads go on: SQLite still has the file open.
        assert (await storage.get([config("before")])).get(config("before")) is not None


async def test_file_that_is_put_back_is_used_again(tmp_path: Path) -> None:
    path, clock = tmp_path / "configsvc.db", FakeClock()
    async with SqliteStorage(path) as storage, FileCheck(storage, clock):
        await storage.write(create(config("a")))
        path.rename(tmp_path / "away")
        with pytest.raises(Unavailable):
            await storage.write(create(config("b")))
        (tmp_path / "away").rename(path)
        await storage.ping()
        await storage.write(create(config("b")))
    async with SqliteStorage(path) as storage:
        assert (await storage.get([config("a"), config("b")])).records.keys() == {config("a"), config("b")}


async def test_removal_of_the_file_is_logged_once_without_a_call(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, clock = tmp_path / "configsvc.db", FakeClock()
    checked = asyncio.Event()

    class Observed:
        """The storage; sets an event after each check."""

        def __init__(self, storage: SqliteStorage) -> None:
            self._storage = storage
            self.check_structure, self.check_rows = storage.check_structure, storage.check_rows

        async def check_file(self) -> None:
            try:
                await self._storage.check_file()
            finally:
                checked.set()

    async with SqliteStorage(path) as storage, FileCheck(Observed(storage), clock):
        await clock.asleep(2)
        path.unlink()
        for _ in range(3):
            checked.clear()
            await clock.advance(WATCH_SECONDS)
            await checked.wait()
            await clock.asleep(2)
    logged = [record for record in caplog.records if "was removed" in record.getMessage()]
    assert len(logged) == 1


async def test_file_that_is_not_a_database_stops_the_start(tmp_path: Path) -> None:
    path = tmp_path / "configsvc.db"
    path.write_bytes(b"these are not the bytes of a database" * 100)
    with pytest.raises(ServiceError, match="damaged"):
        async with SqliteStorage(path):
            pass
