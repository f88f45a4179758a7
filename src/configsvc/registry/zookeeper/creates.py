"""Creates nodes in groups: nodes that wait at the same time are created in one transaction of ZooKeeper.

As in the storage's group commit, the next group gathers while one is under way. A request of ZooKeeper costs about the same
for one node as for a hundred, so a group costs little more than a node.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from configsvc.registry.zookeeper.session import ZookeeperSession
from configsvc.tasks import BackgroundTasks

# Beyond about a hundred nodes, a larger group makes its first node wait longer, and costs no less for each node.
GROUP_NODES = 128
# Half of what a server accepts in one request, unless its `jute.maxbuffer` was changed.
GROUP_BYTES = 512 * 1024


@dataclass(frozen=True, slots=True)
class _Waiting:
    path: str
    data: bytes
    # That of the node that it replaces; None if there is none.
    version: int | None
    is_created: "asyncio.Future[bool]"


class GroupedCreates:
    """Ephemeral nodes to be created. Each has its own outcome."""

    def __init__(self, session: ZookeeperSession) -> None:
        self._session = session
        self._waiting: deque[_Waiting] = deque()
        self._background = BackgroundTasks("zookeeper creates")
        self._is_running = False

    async def create(self, path: str, data: bytes) -> bool:
        """Creates a node whose parent exists, or most likely does; False if there is one already. Raises `Unavailable`."""
        return await self._wait(path, data, None)

    async def replace(self, path: str, data: bytes, version: int) -> bool:
        """Makes a node this session's, without a gap; False if it has changed since `version`. Raises `Unavailable`."""
        return await self._wait(path, data, version)

    async def close(self) -> None:
        """Fails the nodes that wait."""
        await self._background.stop()

    async def _wait(self, path: str, data: bytes, version: int | None) -> bool:
        waiting = _Waiting(path, data, version, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if not self._is_running:
            self._is_running = True
            self._background.start(self._run())
        return await waiting.is_created

    async def _run(self) -> None:
        try:
            while self._waiting:
                await self._create_group(self._take_group())
        finally:
            self._is_running = False
            while self._waiting:
                self._waiting.popleft().is_created.cancel()

    def _take_group(self) -> list[_Waiting]:
        group: list[_Waiting] = []
        size = 0
        while self._waiting and len(group) < GROUP_NODES:
            size += len(self._waiting[0].data) + len(self._waiting[0].path)
            if group and size > GROUP_BYTES:
                break
            waiting = self._waiting.popleft()
            if not waiting.is_created.done():
                group.append(waiting)
        return group

    async def _create_group(self, group: Sequence[_Waiting]) -> None:
        try:
            if len(group) > 1 and await self._session.create_all(
                [(node.path, node.data, node.version) for node in group]
            ):
                for node in group:
                    _settle(node, True)
            else:
                # One node of a transaction that can't be created, or whose parent is missing, prevents all of them.
                await asyncio.gather(*map(self._create_alone, group))
        except Exception as error:
            for node in group:
                _settle(node, error)
        finally:
            for node in group:
                # This was cancelled.
                node.is_created.cancel()

    async def _create_alone(self, node: _Waiting) -> None:
        try:
            if node.version is None:
                _settle(node, await self._session.create(node.path, node.data))
            else:
                _settle(node, await self._session.replace(node.path, node.data, node.version))
        except Exception as error:
            _settle(node, error)


def _settle(node: _Waiting, outcome: bool | Exception) -> None:
    if node.is_created.done():
        # Its caller was cancelled.
        return
    if isinstance(outcome, Exception):
        node.is_created.set_exception(outcome)
    else:
        node.is_created.set_result(outcome)
