"""A session with ZooKeeper: kazoo's client, as coroutines.

kazoo runs its callbacks in a thread of its own. Each does nothing but hand over to the loop; the client is only ever
called from the loop, by its `*_async` methods, and every wait is bounded.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime
from typing import Any

from kazoo.client import KazooClient
from kazoo.exceptions import (
    BadVersionError,
    ConnectionClosedError,
    KazooException,
    NoAuthError,
    NodeExistsError,
    NoNodeError,
    RolledBackError,
)
from kazoo.handlers.threading import KazooTimeoutError, SequentialThreadingHandler
from kazoo.protocol.states import EventType, KazooState, WatchedEvent
from kazoo.retry import KazooRetry

from configsvc.errors import Unavailable
from configsvc.tasks import SupervisedTask, Supervisor

logger = logging.getLogger(__name__)
_driver = logging.getLogger("configsvc.registry.zookeeper.client.driver")
_driver.setLevel(logging.ERROR)

# A call that has not come back by then is given up, whatever becomes of it.
ANSWER_SECONDS = 5.0
CLOSE_SECONDS = 2.0
# Calls under way at the same time.
CALLS = 64

# A watch's callback, in kazoo's thread.
Watch = Callable[[WatchedEvent], None]


class _InOrderHandler(SequentialThreadingHandler):  # type: ignore[misc]
    """kazoo's, but with one queue: what watches tell and what calls answer come in the order of the wire."""

    def dispatch_callback(self, callback: Any) -> None:
        """See kazoo."""
        self.completion_queue.put(lambda: callback.func(*callback.args))


class ZookeeperSession:
    """Calls raise `Unavailable` where there is no connection or no answer, and kazoo's errors on nodes as they are.

    `heard` is told of each change of the connection's state, on the loop. `auth` is the credential, `acl` the access
    list of what is made.
    """

    def __init__(
        self,
        hosts: str,
        *,
        seconds: float,
        auth: tuple[str, str] | None,
        acl: Sequence[Any] | None,
        heard: Callable[[str], None],
        supervisor: Supervisor,
    ) -> None:
        self._hosts = hosts
        self._seconds = seconds
        self._auth = auth
        self._acl = acl
        self._client: Any = self._made()
        self._heard = heard
        self._supervisor = supervisor
        self._keeper: SupervisedTask | None = None
        # Whether this client is connected, and whether it has ever been.
        self._joined, self._left = asyncio.Event(), asyncio.Event()
        self._calls = asyncio.Semaphore(CALLS)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._away_since: datetime | None = datetime.now(UTC)
        self.is_closed = False
        # Whether calls are possible; and why it can't be used though it is connected.
        self.is_reachable = False
        self.problem = ""

    @property
    def id(self) -> int:
        """The session's number, which ZooKeeper shows as the owner of its nodes; 0 where there is none."""
        identity = self._client.client_id
        return int(identity[0]) if identity else 0

    def start(self) -> None:
        """Connects, and goes on trying for ever."""
        self._loop = asyncio.get_running_loop()
        self._begin()
        self._keeper = self._supervisor.supervise("zookeeper session", self._keep_joining)

    async def stop(self) -> None:
        """Says goodbye, so that the nodes go at once. A server that hangs is not waited for; its session expires."""
        self.is_closed = True
        if self._keeper is not None:
            await self._keeper.stop()
        await self._ended(self._client)

    def arrived(self) -> None:
        """It can be used again."""
        self._away_since, self.problem = None, ""

    def left(self) -> None:
        """It can't be used any more."""
        self.is_reachable = False
        self._away_since = self._away_since or datetime.now(UTC)

    def away(self) -> Unavailable:
        """Since when it can't be used, and why."""
        since = self._away_since.isoformat() if self._away_since else "this moment"
        why = f" ({self.problem})" if self.problem else ""
        return Unavailable(f"ZooKeeper is away since {since}{why}", "REGISTRY_UNAVAILABLE")

    def watch(self, seen: Callable[..., None], *arguments: str) -> Watch:
        """A watch that calls `seen` on the loop when it fires."""

        def fired(event: WatchedEvent) -> None:
            # NONE: the connection is gone, and all watches with it; they are set again with the next one.
            if event.type != EventType.NONE:
                self._hand_over(seen, *arguments)

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
        """What a node's access list grants to everyone, in ZooKeeper's bits, and the list's version."""
        found, stat = await self._call(self._client.get_acls_async, path)
        bits = 0
        for entry in found:
            if (entry.id.scheme, entry.id.id) == ("world", "anyone"):
                bits |= entry.perms
        return bits, stat.aversion

    async def restrict(self, path: str, acl: Sequence[Any], version: int) -> None:
        """Gives a node another access list, unless it has another than that of `version`."""
        await self._tried(self._call(self._client.set_acls_async, path, list(acl), version=version))

    async def ensure(self, path: str) -> None:
        """Makes a node and those above it where they are missing."""
        await self._call(self._client.ensure_path_async, path)

    async def create(self, path: str, data: bytes) -> bool:
        """Makes an ephemeral node; False where there is one."""
        try:
            return await self._tried(self._call(self._client.create_async, path, data, ephemeral=True), NoNodeError)
        except NoNodeError:
            await self.ensure(path.rpartition("/")[0])
            return await self._tried(self._call(self._client.create_async, path, data, ephemeral=True))

    async def set(self, path: str, data: bytes, version: int) -> bool:
        """Writes a node's data; False where others have changed it since `version`."""
        return await self._tried(self._call(self._client.set_async, path, data, version=version))

    async def delete(self, path: str, version: int) -> bool:
        """Deletes a node; False where others have changed it since `version`."""
        return await self._tried(self._call(self._client.delete_async, path, version=version))

    async def replace(self, path: str, data: bytes, version: int) -> bool:
        """Makes a node this session's; False where others have changed it since `version`.

        In one transaction: whoever reads sees the old node or the new one, never none.
        """
        transaction = self._client.transaction()
        transaction.delete(path, version=version)
        transaction.create(path, data, ephemeral=True)

        async def commit() -> None:
            for result in await self._call(transaction.commit_async):
                if isinstance(result, Exception) and not isinstance(result, RolledBackError):
                    raise result

        return await self._tried(commit())

    async def _tried(self, work: Coroutine[Any, Any, Any], *but: type[Exception]) -> bool:
        """Whether it could be done, or others have changed what it was based on. Errors `but` are raised."""
        try:
            await work
        except but:
            raise
        except (NoNodeError, NodeExistsError, BadVersionError, RolledBackError):
            return False
        return True

    async def _call(self, method: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        if not self.is_reachable or self.is_closed:
            raise self.away()
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def settle(result: Any) -> None:
            if answer.done():
                return
            if result.successful():
                answer.set_result(result.get(block=False))
            else:
                answer.set_exception(result.exception)

        async with self._calls:
            try:
                method(*arguments, **options).rawlink(lambda result: self._hand_over(settle, result))
                async with asyncio.timeout(ANSWER_SECONDS):
                    return await answer
            except (NoNodeError, NodeExistsError, BadVersionError, RolledBackError):
                raise
            except NoAuthError as error:
                raise Unavailable(
                    "ZooKeeper forbids it: the nodes are those of another ZOOKEEPER_AUTH", "REGISTRY_FORBIDDEN"
                ) from error
            except (KazooException, KazooTimeoutError, ConnectionClosedError, TimeoutError) as error:
                said = str(error) or type(error).__name__
                raise Unavailable(f"ZooKeeper does not answer: {said}", "REGISTRY_UNAVAILABLE") from error

    def _hand_over(self, call: Callable[..., None], *arguments: Any) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call, *arguments)

    def _made(self) -> Any:
        return KazooClient(
            self._hosts,
            timeout=self._seconds,
            connection_retry=KazooRetry(max_tries=-1, delay=0.1, backoff=2, max_delay=1.0),
            command_retry=KazooRetry(max_tries=0),
            auth_data=[self._auth] if self._auth else None,
            default_acl=self._acl,
            logger=_driver,
            handler=_InOrderHandler(),
        )

    def _begin(self) -> None:
        client = self._client
        client.add_listener(lambda state: self._hand_over(self._changed, client, state))
        client.start_async()

    def _changed(self, client: Any, state: str) -> None:
        if client is not self._client:
            return
        if state == KazooState.CONNECTED:
            self._left.clear()
            self._joined.set()
        elif self._joined.is_set():
            self._joined.clear()
            self._left.set()
        self._heard(state)

    async def _keep_joining(self) -> None:
        """Begins anew with a client that knows nothing, if the session's time has passed without a connection.

        A server refuses a client that has seen later changes than itself, for ever: one that has lost its data looks
        like one that lags behind. The session is over by then, so nothing is given up.
        """
        while True:
            await self._left.wait()
            try:
                async with asyncio.timeout(self._seconds):
                    await self._joined.wait()
                continue
            except TimeoutError:
                logger.warning("ZooKeeper is away for longer than the session lasts: a new one is begun")
            old, self._client = self._client, self._made()
            self._left.clear()
            self._heard(KazooState.LOST)
            self._begin()
            await self._ended(old)

    async def _ended(self, client: Any) -> None:
        def end() -> None:
            client.stop()
            client.close()

        await asyncio.wait((asyncio.get_running_loop().run_in_executor(None, end),), timeout=CLOSE_SECONDS)
