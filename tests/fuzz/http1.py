"""An HTTP/1.1 client that sends what it is told, sound or not; libraries refuse to."""

import asyncio
from dataclasses import dataclass

ANSWER_SECONDS = 20.0
# A watch has no end: what comes at once is enough.
STREAM_SECONDS = 0.05
LARGEST_ANSWER_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. `status` 0: the connection was closed without an answer."""

    status: int
    headers: dict[str, str]
    body: bytes


class Connection:
    """One connection, opened again when it has to be."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, request: bytes, *, is_head: bool = False, streams: bool = False) -> Answer:
        """The answer to a request; `streams`: of an endless one its head, and the connection is closed.

        Raises:
            TimeoutError: there was none within `ANSWER_SECONDS`.
        """
        async with asyncio.timeout(ANSWER_SECONDS):
            if self._streams is None:
                self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 20)
            reader, writer = self._streams
            try:
                writer.write(request)
                await writer.drain()
                return await self._answer(reader, is_head, streams)
            except (ConnectionError, asyncio.IncompleteReadError):
                await self.close()
                return Answer(0, {}, b"")

    async def _answer(self, reader: asyncio.StreamReader, is_head: bool, streams: bool) -> Answer:
        status = 100
        while status == 100:
            head = await reader.readuntil(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").split("\r\n")
            status = int(first.split(" ")[1])
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        is_endless = headers.get("content-type", "").startswith(("text/event-stream", "application/x-ndjson"))
        if streams and status == 200 and (is_endless or "content-length" not in headers):
            try:
                async with asyncio.timeout(STREAM_SECONDS):
                    await reader.read(1 << 16)
            except TimeoutError:
                pass
            await self.close()
            return Answer(status, headers, b"")
        body = b"" if is_head or status in (204, 304) else await self._body(reader, headers)
        if headers.get("connection", "").lower() == "close":
            await self.close()
        return Answer(status, headers, body)

    async def _body(self, reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
        if "content-length" in headers:
            return await reader.readexactly(int(headers["content-length"]))
        if headers.get("transfer-encoding", "").lower() != "chunked":
            body = await reader.read(LARGEST_ANSWER_BYTES)
            await self.close()
            return body
        found = b""
        while size := int((await reader.readline()).split(b";")[0], 16):
            found += await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
        return found

    async def close(self) -> None:
        """Ends the connection, if there is one."""
        if self._streams is not None:
            _, writer = self._streams
            self._streams = None
            writer.close()
