"""An HTTP/1.1 client that also sends malformed requests, which libraries refuse to send."""

import asyncio
from dataclasses import dataclass

ANSWER_SECONDS = 20.0
# A watch has no end: the head of its answer is enough.
STREAM_SECONDS = 0.05
LARGEST_ANSWER_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer. `status` 0: the connection was closed without an answer."""

    status: int
    headers: dict[str, str]
    body: bytes


class Connection:
    """One connection, reopened if needed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, request: bytes, *, is_head: bool = False, streams: bool = False) -> Answer:
        """The answer to a request. If it is an endless stream (`streams`): only its head; the connection is then closed.

        Raises:
            TimeoutError: no answer came within `ANSWER_SECONDS`.
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
        body = b""
        while size := int((await reader.readline()).split(b";")[0], 16):
            body += await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
        return body

    async def close(self) -> None:
        """Closes the connection if it is open."""
        if self._streams is not None:
            _, writer = self._streams
            self._streams = None
            writer.close()
