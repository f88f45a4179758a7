"""A TCP proxy on the loopback that limits the bytes per second to the server."""

import asyncio
import threading
from types import TracebackType
from typing import Self

from tests.engines.ports import Port

CHUNK_BYTES = 16 << 10


class SlowLine:
    """Forwards `port` to a server's port. One rate for all connections together; 0: no limit. It can change at any time."""

    def __init__(self) -> None:
        self._port = Port()
        self.port = self._port.number
        self.server_port = 0
        self.bytes_per_second = 0
        self.passed_bytes = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="slow-line", daemon=True)
        self._free_at = 0.0
        self._tasks: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(30)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()
        self._port.release()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port, limit=CHUNK_BYTES)

    async def _end(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = self._loop.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        try:
            server, to_server = await asyncio.open_connection("127.0.0.1", self.server_port, limit=CHUNK_BYTES)
        except OSError:
            to_client.close()
            return
        to_server.transport.set_write_buffer_limits(CHUNK_BYTES)
        ways = [
            self._loop.create_task(self._pass(client, to_server, is_slow=True)),
            self._loop.create_task(self._pass(server, to_client, is_slow=False)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            to_client.close()
            to_server.close()

    async def _pass(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, is_slow: bool) -> None:
        while data := await source.read(CHUNK_BYTES):
            if is_slow:
                self.passed_bytes += len(data)
                if self.bytes_per_second:
                    now = self._loop.time()
                    self._free_at = max(self._free_at, now) + len(data) / self.bytes_per_second
                    await asyncio.sleep(self._free_at - now)
            target.write(data)
            await target.drain()
