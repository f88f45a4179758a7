"""The threads that use the embedded database's file: one writes, a few others read.

Readers never wait for the writer (WAL), and each read sees one snapshot.
"""

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from queue import LifoQueue
from types import TracebackType
from typing import Self

from configsvc.errors import Unavailable
from configsvc.storage.sql.reads import T
from configsvc.storage.sqlite.connection import check_structure, connect, migrate, translated
from configsvc.storage.sqlite.damage import KnownDamage
from configsvc.storage.sqlite.file_lock import LockedFile, lock_file
from configsvc.storage.sqlite.writer import SqliteWriter

# Reads are short and mostly from memory. More threads would only compete for the interpreter.
_READERS = 4

# After a burst the write-ahead log is cut back to this size.
_MAX_WAL_BYTES = 64 << 20

# Up to this size the file is checked completely before it is used, indexes against tables, in about half a second. A larger
# file is checked without that (`quick_check`), some 2 s a gigabyte, and completely in the background.
_MAX_FULL_CHECK_BYTES = 64 << 20

Connections = LifoQueue[sqlite3.Connection]


@dataclass(frozen=True, slots=True)
class _Open:
    file: LockedFile
    writer: SqliteWriter
    connections: Connections
    writer_thread: ThreadPoolExecutor
    reader_threads: ThreadPoolExecutor


class SqliteThreads:
    """Opens the file and its threads while the context is open."""

    def __init__(self, path: Path, damage: KnownDamage) -> None:
        self._path = path
        self._damage = damage
        self._opened: _Open | None = None
        self._stack = AsyncExitStack()

    @property
    def is_open(self) -> bool:
        """Whether the context is open. Any thread may ask."""
        return self._opened is not None

    @property
    def refuses_writes(self) -> bool:
        """Whether the database refused the last writes."""
        return self._opened is not None and self._opened.writer.refuses_writes

    async def check_file(self) -> None:
        """Returns if the file is where it was opened. Raises `Unavailable` (reason `STORAGE_GONE`) if it is not."""
        opened = self._require_open()
        await asyncio.get_running_loop().run_in_executor(opened.reader_threads, opened.file.check)

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Runs work in a reader's thread, and translates its errors."""
        opened = self._require_open()

        def run() -> T:
            # There are as many connections as threads, so one is free.
            connection = opened.connections.get_nowait()
            try:
                with self._damage.added(), translated():
                    return work(connection)
            finally:
                opened.connections.put_nowait(connection)

        return await asyncio.get_running_loop().run_in_executor(opened.reader_threads, run)

    async def write(self, work: Callable[[SqliteWriter], T]) -> T:
        """Runs work in the writer's thread."""
        opened = self._require_open()

        def run() -> T:
            with self._damage.added():
                return work(opened.writer)

        return await asyncio.get_running_loop().run_in_executor(opened.writer_thread, run)

    def _require_open(self) -> _Open:
        if self._opened is None:
            raise Unavailable("the storage is closed", "STORAGE_CLOSED")
        return self._opened

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        async with AsyncExitStack() as stack:
            writer_thread = ThreadPoolExecutor(1, "sqlite-writer")
            stack.callback(writer_thread.shutdown, wait=False)
            reader_threads = ThreadPoolExecutor(_READERS, "sqlite-reader")
            stack.callback(reader_threads.shutdown, wait=False)
            files = ExitStack()
            opening = loop.run_in_executor(writer_thread, self._open_files, files)
            # The end, in reverse order: wait for reads whose callers were cancelled; then close the connections, in the
            # thread that writes, after its last write.
            stack.push_async_callback(lambda: loop.run_in_executor(writer_thread, files.close))
            stack.push_async_callback(lambda: loop.run_in_executor(None, reader_threads.shutdown))
            file, connection, connections = await opening
            writer = SqliteWriter(connection, self._path, file, self._damage)
            self._opened = _Open(file, writer, connections, writer_thread, reader_threads)
            stack.callback(self._forget_opened)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    def _forget_opened(self) -> None:
        self._opened = None

    def _open_files(self, files: ExitStack) -> tuple[LockedFile, sqlite3.Connection, Connections]:
        """The file, the migrated connection that writes, and the connections that read; `files` closes them."""
        with translated(self._path):
            file = files.enter_context(lock_file(self._path))
            writer = files.enter_context(closing(connect(self._path, "rwc")))
            writer.execute("PRAGMA journal_mode = WAL")
            writer.execute("PRAGMA synchronous = FULL")
            writer.execute(f"PRAGMA journal_size_limit = {_MAX_WAL_BYTES}")
            migrate(writer)
            file.wal_opened()
            is_small = self._path.stat().st_size <= _MAX_FULL_CHECK_BYTES
            check_structure(writer, "integrity_check" if is_small else "quick_check", self._damage)
            connections = Connections(_READERS)
            for _ in range(_READERS):
                connections.put_nowait(files.enter_context(closing(connect(self._path, "ro"))))
            return file, writer, connections
