"""The connection pools, and the time limit of a call."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from configsvc.errors import Unavailable
from configsvc.storage.postgres.connection import Connection, translated
from configsvc.storage.postgres.round_trip import RoundTripConnection
from configsvc.storage.sql.reads import T

C = TypeVar("C", bound=Connection)

# The shortest that libpq allows. A reachable server answers in milliseconds.
CONNECT_SECONDS = 2

# The pool ends its own attempts after this time, and each new call starts one. So a server that is back is found at once.
# The pool's back-off doubles with each failure: after a long outage it would find the server late.
_RECONNECT_SECONDS = 1.0

# Calls that may wait for a connection. With more, the server is overloaded, and it is better to refuse at once.
_MAX_WAITING_CALLS = 1_000


# A call waits so long for a free connection. If no server listens, it is `Unavailable` after this time.
_CONNECTION_SECONDS = 2.0

# For one statement; of these `_LOCK_SECONDS` for a lock.
_STATEMENT_SECONDS, _LOCK_SECONDS = 10.0, 5.0

# For a whole call.
ANSWER_SECONDS = 12.0

# Of each connection.
SETTINGS = {
    # A group that is stored by one statement (`transaction.py`) has no BEGIN that could say this.
    "default_transaction_isolation": "read committed",
    "statement_timeout": f"{round(_STATEMENT_SECONDS * 1000)}ms",
    "lock_timeout": f"{round(_LOCK_SECONDS * 1000)}ms",
    # A replica that hangs in a transaction would hold the counter's lock for all replicas.
    "idle_in_transaction_session_timeout": f"{round(ANSWER_SECONDS * 1000)}ms",
    # In a large log the planner expects a page to be costly, and compiles it. That takes longer than to read the page.
    "jit": "off",
}


class Pools:
    """A pool of `readers` connections that read, and a pool of one connection that writes, while the context is open."""

    def __init__(self, url: str, readers: int) -> None:
        self._url = url
        self.readers = readers
        self._reading: AsyncConnectionPool[Connection] | None = None
        self._writing: AsyncConnectionPool[RoundTripConnection] | None = None
        self._running: set[asyncio.Task[Any]] = set()
        self._stack = AsyncExitStack()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Connection]:
        """A connection that reads."""
        async with _open(self._reading).connection() as connection:
            yield connection

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[RoundTripConnection]:
        """The connection that writes."""
        async with _open(self._writing).connection() as connection:
            yield connection

    async def bounded(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs `work`, at most for `ANSWER_SECONDS`, and translates its errors.

        The work is a task of its own. If psycopg is cancelled, it first asks the server to cancel the statement, and a
        server that hangs does not answer that either. So the call does not wait for the cancellation, and a caller that
        is cancelled leaves its statement running.
        """
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._on_done)
        await asyncio.wait({task}, timeout=ANSWER_SECONDS)
        if not task.done():
            task.cancel()
            raise Unavailable(f"the database did not answer within {ANSWER_SECONDS} s")
        with translated():
            return task.result()

    def _on_done(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        # Retrieve the exception, so that asyncio does not warn if the caller was cancelled.
        if not task.cancelled():
            task.exception()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            stack.callback(self._forget_pools)
            self._reading = await self._open_pool(stack, "reading", self.readers, AsyncConnection)
            self._writing = await self._open_pool(stack, "writing", 1, RoundTripConnection)
            stack.push_async_callback(self._wait_for_running)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _wait_for_running(self) -> None:
        """Waits for statements whose callers were cancelled."""
        if self._running:
            await asyncio.wait(self._running, timeout=ANSWER_SECONDS)

    def _forget_pools(self) -> None:
        self._reading = self._writing = None

    async def _open_pool(self, stack: AsyncExitStack, role: str, size: int, kind: type[C]) -> AsyncConnectionPool[C]:
        pool: AsyncConnectionPool[C] = AsyncConnectionPool(
            self._url,
            connection_class=kind,
            kwargs={"autocommit": True, "connect_timeout": CONNECT_SECONDS, "application_name": f"configsvc {role}"},
            min_size=1,
            max_size=size,
            open=False,
            configure=self._configure,
            name=f"postgres-{role}",
            timeout=_CONNECTION_SECONDS,
            max_waiting=_MAX_WAITING_CALLS,
            reconnect_timeout=_RECONNECT_SECONDS,
        )
        await pool.open()
        stack.push_async_callback(pool.close)
        return pool

    async def _configure(self, connection: Connection) -> None:
        for setting, value in SETTINGS.items():
            await connection.execute("SELECT set_config(%s, %s, false)", (setting, value))
        # A commit is acknowledged when it is flushed, even if the server's default is `off`. Stricter defaults stay.
        await connection.execute(
            "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
        )


def _open(pool: AsyncConnectionPool[C] | None) -> AsyncConnectionPool[C]:
    if pool is None:
        raise Unavailable("the storage is closed", "STORAGE_CLOSED")
    return pool
