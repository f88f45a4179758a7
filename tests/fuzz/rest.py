"""Random REST requests, as bytes."""

import random
import re
from dataclasses import dataclass
from urllib.parse import quote, quote_from_bytes

from tests.fuzz.routes import Route
from tests.fuzz.values import ENVIRONMENT, NAMES, Values

# Headers that callers, proxies and attackers send. None of them may change another caller's answer.
HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"grpc-timeout", b"x"),
    (b"grpc-timeout", b"-1S"),
    (b"grpc-timeout", b"99999999999999S"),
    (b"grpc-timeout", b"1n"),
    (b"grpc-encoding", b"nonsense"),
    (b"grpc-encoding", b"gzip"),
    (b"grpc-status", b"0"),
    (b"grpc-message", b"etag=%22x%22"),
    (b"grpc-trace-bin", b"!!not base64!!"),
    (b"x-any-bin", b"\xff\xfe"),
    (b"te", b"gzip"),
    (b"content-encoding", b"gzip"),
    (b"accept-encoding", b"br;q=nonsense"),
    (b"x-request-id", b"\xff\xfe"),
    (b"x-request-id", b"r" * 300),
    (b"x-actor", "ÄÖ".encode()),
    (b"x-actor", b"\xc3"),
    (b"x-http-status", b"204"),
    (b"x-configsvc-rest", b"0"),
    (b"x-configsvc-native", b"1"),
    (b"x-configsvc-members", b"value"),
    (b"x-envoy-upstream-rq-timeout-ms", b"1"),
    (b"x-envoy-retry-on", b"5xx"),
    (b"x-forwarded-for", b"1.2.3.4, nonsense"),
    (b"if-match", b""),
    (b"if-match", b'"1-1"'),
    (b"if-match", b'W/"1-1", *'),
    (b"if-none-match", b"*"),
    (b"if-none-match", b'"' * 50),
    (b"origin", b"https://evil.example"),
    (b"authorization", b"Bearer " + b"t" * 5_000),
    (b"cookie", b"c=" + b"d" * 20_000),
    (b"expect", b"100-continue"),
    (b"range", b"bytes=0-1"),
    (b"upgrade", b"websocket"),
    (b"accept", b"text/event-stream"),
    (b"accept", b"application/grpc"),
    (b"last-event-id", b"18446744073709551616"),
)
CONTENT_TYPES = (
    b"application/grpc",
    b"application/grpcx",
    b"application/grpc-web+proto",
    b"text/plain",
    b"application/json; charset=utf-16",
    b"multipart/form-data; boundary=x",
    b"\xff",
    b"",
)
METHODS = (b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"TRACE", b"PROPFIND", b"get")


@dataclass(frozen=True, slots=True)
class Request:
    """A request, and what is needed to read its answer."""

    data: bytes
    is_head: bool
    streams: bool
    # Whether it is valid HTTP: then its error is JSON.
    is_http: bool

    def __str__(self) -> str:
        shown = self.data[:700]
        return f"{shown!r}{'…' if len(self.data) > len(shown) else ''}"


class RestRequests:
    """Makes random requests."""

    def __init__(self, rng: random.Random, routes: list[Route]) -> None:
        self._rng = rng
        self._values = Values(rng)
        self._routes = routes

    def next(self) -> Request:
        """One request."""
        route = self._rng.choice(self._routes)
        method = self._rng.choice(METHODS) if self._values.one_in(25) else route.method.encode()
        path = self._path(route)
        body, headers = b"", [(b"host", b"localhost")]
        if route.has_body or self._values.one_in(30):
            message = self._values.message(route.request)
            body = self._values.document(self._values.json() if self._values.one_in(20) else message)
            headers.append((b"content-type", b"application/json"))
            if self._values.one_in(20):
                headers[-1] = (b"content-type", self._rng.choice(CONTENT_TYPES))
        else:
            path += self._query(route)
        headers += [self._rng.choice(HEADERS) for _ in range(self._rng.choice((0, 0, 0, 1, 1, 3)))]
        # The body is already sent or never comes: waiting for a 100 would only take time.
        headers.append((b"content-length", str(len(body)).encode()))
        lines = [method + b" " + path.encode() + b" HTTP/1.1", *(name + b": " + value for name, value in headers)]
        is_http = method in METHODS[:8] and not any(b in value for _, value in headers for b in (b"\r", b"\n", b"\0"))
        streams = route.streams or ":watch" in path
        return Request(b"\r\n".join(lines) + b"\r\n\r\n" + body, method == b"HEAD", streams, is_http)

    def _path(self, route: Route) -> str:
        def fill(_: re.Match[str]) -> str:
            if self._values.one_in(10):
                return quote_from_bytes(bytes(self._rng.randrange(256) for _ in range(8)))
            text = self._rng.choice(NAMES) if not self._values.one_in(6) else self._values.text()
            return quote(text.encode("utf-8", "surrogatepass"), safe=self._rng.choice(("", "/")))

        path = re.sub(r"{[^}]+}", fill, route.template)
        if self._values.one_in(20):
            path += self._rng.choice(("/", "//", "/..", "%", "%zz", "?", "#x", "/history", ":nothing", ";a=b"))
        return path

    def _query(self, route: Route) -> str:
        named = dict.fromkeys(name for name in ("environment", "service_name") if not self._values.one_in(10))
        pairs = [(name, ENVIRONMENT if name == "environment" else self._rng.choice(NAMES)) for name in named]
        pairs = [pair for pair in pairs if pair[0] in route.request.fields_by_name and pair[0] not in route.variables]
        for field in route.request.fields:
            if field.name not in (*route.variables, *named) and self._values.one_in(4):
                pairs.append((field.name, self._query_value(field.name)))
        if self._values.one_in(15):
            pairs.append((self._values.text(), self._values.text()))
        if not pairs:
            return ""
        return "?" + "&".join(
            f"{quote(name.encode('utf-8', 'surrogatepass'))}={quote(value.encode('utf-8', 'surrogatepass'))}"
            for name, value in pairs
        )

    def _query_value(self, name: str) -> str:
        if self._values.one_in(3):
            return self._values.text()
        if name in ("page_size", "version", "from_version", "to_version"):
            return str(self._rng.choice((-1, 0, 1, 2, 1000, 10**6, 2**31, 2**63)))
        if name == "after_revision":
            return str(self._rng.choice((0, 1, 10**6, -1)))
        return str(self._rng.choice((0, 1, "true", "x")))
