"""The access log: a line without values for a call, at its end.

By default successful reads are sampled: each method writes at most one such line a second, and the others are counted.
The next line of the method, whatever it is for, has their number as `skipped`. Calls that fail, writes, streams and slow
calls always have a line.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from json.encoder import encode_basestring_ascii as quoted

import grpc

from configsvc.logs import EncodedRecord
from configsvc.rpc.context import ServerContext
from configsvc.rpc.interceptors.call import HEALTH_SERVICES, Call, Handler, Method
from configsvc.rpc.services import SERVICES
from configsvc.rpc.status import code_of, reason_of

logger = logging.getLogger("access")

# Between two lines about successful reads of one method.
SAMPLE_SECONDS = 1.0


class MethodLog:
    """The lines about one method.

    A caller that knows that its call is a quick successful read asks `is_due`, and calls `skip` or `write`.
    """

    __slots__ = ("_last_line_at", "_path", "_skipped")

    def __init__(self, path: str) -> None:
        self._path = quoted(path)
        self._last_line_at = -SAMPLE_SECONDS
        self._skipped = 0

    def is_due(self, now: float) -> bool:
        """Whether a successful read that ended at `now` (`time.perf_counter`) has a line."""
        return now - self._last_line_at >= SAMPLE_SECONDS

    def skip(self) -> None:
        """Counts a call without a line."""
        self._skipped += 1

    def write(
        self,
        now: float,
        *,
        started: float,
        request_id: str,
        metadata: Mapping[str, str],
        peer: str,
        status: str = "OK",
        reason: str = "",
    ) -> None:
        """Writes the line of a call that ended at `now`."""
        if status == "OK":
            # Calls that fail must not take the samples' turn.
            self._last_line_at = now
        if not logger.isEnabledFor(logging.INFO):
            return
        rest = f', "reason": {quoted(reason)}' if reason else ""
        if self._skipped:
            rest += f', "skipped": {self._skipped}'
            self._skipped = 0
        actor = metadata.get("x-actor", "anonymous")
        members = (
            f'"method": {self._path}, "code": "{status}", "duration_ms": {round((now - started) * 1000, 2)},'
            f' "request_id": {quoted(request_id)}, "actor": {quoted(actor)}, "peer": {quoted(peer)}{rest}'
        )
        logger.handle(EncodedRecord(logger.name, "call", members))


class AccessLog:
    """The access log of a server. `writes_all`: every call has a line. A call of `slow_seconds` or more always has one."""

    def __init__(self, *, writes_all: bool, slow_seconds: float) -> None:
        self._writes_all = writes_all
        self._slow_seconds = slow_seconds
        self._methods: dict[str, MethodLog] = {}

    def of(self, path: str) -> MethodLog:
        """The lines about one method."""
        return self._methods.setdefault(path, MethodLog(path))

    def sample_of(self, path: str) -> MethodLog | None:
        """The lines about a unary method some of whose successful calls have none; None if each call has one."""
        return None if self._writes_all or path in WRITES else self.of(path)

    def unary(self, method: Method, handler: Handler) -> Handler:
        """Logs each unary call at its end. Health checks that succeed are not logged: they are too many."""
        return self._logged(method, handler, is_sampled=self.sample_of(method.path) is not None)

    def stream(self, method: Method, handler: Handler) -> Handler:
        """Logs each stream at its end."""
        return self._logged(method, handler, is_sampled=False)

    def _logged(self, method: Method, handler: Handler, *, is_sampled: bool) -> Handler:
        is_quiet = method.path.startswith(HEALTH_SERVICES)
        log, slow_seconds = self.of(method.path), self._slow_seconds

        def write(call: Call, code: grpc.StatusCode, reason: str = "") -> None:
            now = time.perf_counter()
            is_counted = is_sampled and code is grpc.StatusCode.OK and now - call.started < slow_seconds
            if is_counted and not log.is_due(now):
                log.skip()
                return
            log.write(
                now,
                started=call.started,
                request_id=call.request_id,
                metadata=call.request_metadata,
                peer=call.peer,
                status=code.name,
                reason=reason,
            )

        async def run(call: Call, request: object) -> object:
            try:
                response = await handler(call, request)
            except asyncio.CancelledError:
                write(call, _cancelled_code(call.context))
                raise
            except grpc.aio.AbortError:
                write(call, _aborted_code(call.context))
                raise
            except Exception as error:
                write(call, code_of(error), reason_of(error))
                raise
            if not is_quiet:
                write(call, grpc.StatusCode.OK)
            return response

        return run


def log_unknown_method(path: str) -> None:
    """Logs a call of a method that no service has."""
    logger.info("call", extra={"method": path, "code": grpc.StatusCode.UNIMPLEMENTED.name})


def _cancelled_code(context: ServerContext) -> grpc.StatusCode:
    """CANCELLED if the caller left; DEADLINE_EXCEEDED if its deadline ended the call before this server did."""
    remaining = context.time_remaining()
    is_in_time = remaining is None or remaining > 0
    return grpc.StatusCode.CANCELLED if is_in_time else grpc.StatusCode.DEADLINE_EXCEEDED


def _aborted_code(context: ServerContext) -> grpc.StatusCode:
    """The code that a library's servicer has aborted the call with; grpc.aio gives it as a number."""
    code = context.code()
    return next((known for known in grpc.StatusCode if code in (known, known.value[0])), grpc.StatusCode.UNKNOWN)


def _writes() -> frozenset[str]:
    """The methods that append to the change log: a retry of theirs has a `request_id`."""
    return frozenset(
        f"/{service.descriptor.full_name}/{method.name}"
        for service in SERVICES
        for method in service.descriptor.methods
        if "request_id" in method.input_type.fields_by_name
    )


WRITES = _writes()
