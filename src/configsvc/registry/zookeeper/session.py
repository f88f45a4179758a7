"""A session with ZooKeeper: kazoo's client, as coroutines.

kazoo runs its callbacks in a thread of its own. Each of them only hands over to the event loop. The client is called from
the event loop only, by its `*_async` methods, and every wait is bounded.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from kazoo.exceptions import (
    BadVersionError,
    ConnectionClosedError,
    KazooException,
    NoAuthError,
    NodeExistsError,
    NoNodeError,
    RolledBackError,
)
from kazoo.handlers.threading import KazooTimeoutError
from kazoo.protocol.states import EventType, KazooState, WatchedEvent

from configsvc.clock import Clock, wait_for_event
from configsvc.errors import Unavailable
from configsvc.registry.zookeeper.answers import PendingAnswers
from configsvc.registry.zookeeper.kazoo_client import close_client, new_client
from configsvc.tasks import SupervisedTask, Supervisor

logger = logging.getLogger(__name__)

# Answers that say how the nodes are.
_ABOUT_NODES = (NoNodeError, NodeExistsError, BadVersionError, RolledBackError)
# Calls under way at the same time.
CONCURRENT_CALLS = 64

# The callback of a watch. It runs in kazoo's thread.
Watch = Callable[[WatchedEvent], None]


class ZookeeperSession:
    """Calls raise `Unavailable` if there is no connection or no answer, and kazoo's errors about nodes unchanged.

    `on_state` is called on the event loop at each change of the connection's state. `auth` is the credential, `acl` the
    access list of the nodes that are created.
    """

    def __init__(
        self,
        hosts: str,
        *,
        seconds: float,
        auth: tuple[str, str] | None,
        acl: Sequence[Any] | None,
        on_state: Callable[[str], None],
        clock: Clock,
        supervisor: Supervisor,
    ) -> None:
        self._hosts = hosts
        self._seconds = seconds
        self._auth = auth
        self._acl = acl
        self._client: Any = new_client(hosts, seconds, auth, acl)
        self._on_state = on_state
        self._clock = clock
        self._supervisor = supervisor
        self._answers = PendingAnswers(clock)
        self._tasks: list[SupervisedTask] = []
        # `_disconnected` is set only if this client was connected before.
        self._connected, self._disconnected = asyncio.Event(), asyncio.Event()
        self._calls = asyncio.Semaphore(CONCURRENT_CALLS)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._unusable_since: datetime | None = clock.now()
        self.is_closed = False
        # Whether calls are possible.
        self.is_reachable = False
        # Why the session can't be used although it is connected.
        self.problem = ""

    @property
    def id(self) -> int:
        """The session's number, which ZooKeeper stores as the owner of its nodes; 0 if there is no session."""
        identity = self._client.client_id
        return int(identity[0]) if identity else 0

    def start(self) -> None:
        """Connects; retries for ever."""
        self._loop = asyncio.get_running_loop()
        self._start_client()
        work = {"zookeeper session": self._replace_refused_clients, "zookeeper answers": self._answers.run}
        self._tasks = [self._supervisor.supervise(name, run) for name, run in work.items()]

    async def stop(self) -> None:
        """Ends the session."""
        self.is_closed = True
        await asyncio.gather(*(task.stop() for task in self._tasks))
        await close_client(self._client, self._clock)

    def mark_usable(self) -> None:
        """The session can be used: this replica is shown, and all watches are set."""
        self._unusable_since, self.problem = None, ""

    def mark_unusable(self) -> None:
        """The connection is lost."""
        self.is_reachable = False
        self._unusable_since = self._unusable_since or self._clock.now()

    def unavailable(self) -> Unavailable:
        """The error for a call while the session can't be used: since when, and why."""
        since = self._unusable_since.isoformat() if self._unusable_since else "this moment"
        why = f" ({self.problem})" if self.problem else ""
        return Unavailable(f"ZooKeeper is away since {since}{why}", "REGISTRY_UNAVAILABLE")

    def watch(self, on_fired: Callable[..., None], *arguments: str) -> Watch:
        """A watch that calls `on_fired(is_deleted, *arguments)` on the event loop when it fires."""

        def fired(event: WatchedEvent) -> None:
            # NONE: the connection is lost, and all its watches. They are set again on the next connection.
            if event.type != EventType.NONE:
                self._hand_over(on_fired, event.type == EventType.DELETED, *arguments)

        return fired

    async def get(self, path: str, watch: Watch | None = None) -> tuple[bytes, Any]:
        """Data and stat of a node. Raises `NoNodeError`."""
        data, stat = await self._call(self._client.get_async, path, watch=watch)
        return data, stat

    async def children(self, path: str, watch: Watch | None = None) -> Sequence[str]:
        """The names of a node's children. Raises `NoNodeError`."""
        names: Sequence[str] = await self._call(self._client.get_children_async, path, watch=watch)
        return names

    async def exists(self, path: str) -> bool:
        """Whether there is a node."""
        return await self._call(self._client.exists_async, path) is not None

    async def granted_to_everyone(self, path: str) -> tuple[int, int]:
        """The rights that a node's access list grants to everyone, in ZooKeeper's bits, and the list's version."""
        entries, stat = await self._call(self._client.get_acls_async, path)
        bits = 0
        for entry in entries:
            if (entry.id.scheme, entry.id.id) == ("world", "anyone"):
                bits |= entry.perms
        return bits, stat.aversion

    async def set_acl(self, path: str, acl: Sequence[Any], version: int) -> None:
        """Gives a node another access list, unless its list is no longer that of `version`."""
        await self._succeeds(self._call(self._client.set_acls_async, path, list(acl), version=version))

    async def ensure(self, path: str) -> None:
        """Creates a node and its parents if they are missing."""
        await self._call(self._client.ensure_path_async, path)

    async def create(self, path: str, data: bytes) -> bool:
        """Creates an ephemeral node; False if there is one already."""
        try:
            return await self._succeeds(self._call(self._client.create_async, path, data, ephemeral=True), NoNodeError)
        except NoNodeError:
            await self.ensure(path.rpartition("/")[0])
            return await self._succeeds(self._call(self._client.create_async, path, data, ephemeral=True))

    async def set(self, path: str, data: bytes, version: int) -> bool:
        """Writes a node's data; False if it has changed since `version`."""
        return await self._succeeds(self._call(self._client.set_async, path, data, version=version))

    async def delete(self, path: str, version: int) -> bool:
        """Deletes a node; False if it has changed since `version`."""
        return await self._succeeds(self._call(self._client.delete_async, path, version=version))

    async def create_all(self, nodes: Sequence[tuple[str, bytes, int | None]]) -> bool:
        """Creates ephemeral nodes in one transaction; False if that can't be done for all of them: then none is created.

        Each is a path, its data, and the version of a node to `replace`; None if there is none.
        """
        transaction = self._client.transaction()
        for path, data, version in nodes:
            if version is not None:
                transaction.delete(path, version=version)
            transaction.create(path, data, ephemeral=True)
        results = await self._call(transaction.commit_async)
        return not any(isinstance(result, Exception) for result in results)

    async def replace(self, path: str, data: bytes, version: int) -> bool:
        """Makes a node this session's; False if it has changed since `version`.

        In one transaction: a reader sees the old node or the new one, and never no node.
        """
        transaction = self._client.transaction()
        transaction.delete(path, version=version)
        transaction.create(path, data, ephemeral=True)

        async def commit() -> None:
            results = await self._call(transaction.commit_async)
            with _translated():
                for result in results:
                    if isinstance(result, Exception) and not isinstance(result, RolledBackError):
                        raise result

        return await self._succeeds(commit())

    async def _succeeds(self, work: Coroutine[Any, Any, Any], *raised: type[Exception]) -> bool:
        """Whether the work was done; False if others have changed the nodes that it needs. Errors `raised` are raised."""
        try:
            await work
        except raised:
            raise
        except _ABOUT_NODES:
            return False
        return True

    async def _call(self, method: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        if not self.is_reachable or self.is_closed:
            raise self.unavailable()
        async with self._calls:
            with _translated(), self._answers.expected() as answer:
                method(*arguments, **options).rawlink(lambda result: self._hand_over(self._settle, answer, result))
                return await answer

    def _settle(self, answer: "asyncio.Future[Any]", result: Any) -> None:
        if result.successful() or isinstance(result.exception, _ABOUT_NODES):
            self._answers.heard()
        if answer.done():
            return
        if result.successful():
            answer.set_result(result.get(block=False))
        else:
            answer.set_exception(result.exception)

    def _hand_over(self, call: Callable[..., None], *arguments: Any) -> None:
        """Calls on the event loop, from kazoo's thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call, *arguments)

    def _start_client(self) -> None:
        client = self._client
        client.add_listener(lambda state: self._hand_over(self._on_client_state, client, state))
        client.start_async()

    def _on_client_state(self, client: Any, state: str) -> None:
        if client is not self._client:
            return
        if state == KazooState.CONNECTED:
            self._disconnected.clear()
            self._connected.set()
        elif self._connected.is_set():
            self._connected.clear()
            self._disconnected.set()
        self._on_state(state)

    async def _replace_refused_clients(self) -> None:
        """Replaces the client by a new one if there is no connection for as long as a session lasts.

        A server refuses a client that has seen later changes than the server itself, for ever: a server that has lost its
        data looks like one that lags behind. The session has expired by then, so nothing is lost.
        """
        while True:
            await self._disconnected.wait()
            if await wait_for_event(self._clock, self._seconds, self._connected):
                continue
            logger.warning("ZooKeeper is away for longer than the session lasts: a new one is begun")
            old, self._client = self._client, new_client(self._hosts, self._seconds, self._auth, self._acl)
            self._disconnected.clear()
            self._on_state(KazooState.LOST)
            self._start_client()
            await close_client(old, self._clock)


@contextmanager
def _translated() -> Iterator[None]:
    """Raises `Unavailable` in place of kazoo's errors, but for those about nodes."""
    try:
        yield
    except _ABOUT_NODES:
        raise
    except NoAuthError as error:
        raise Unavailable(
            "ZooKeeper forbids it: the nodes are those of another ZOOKEEPER_AUTH", "REGISTRY_FORBIDDEN"
        ) from error
    except (KazooException, KazooTimeoutError, ConnectionClosedError) as error:
        text = str(error) or type(error).__name__
        raise Unavailable(f"ZooKeeper does not answer: {text}", "REGISTRY_UNAVAILABLE") from error
