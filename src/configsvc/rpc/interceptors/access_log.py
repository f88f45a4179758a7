"""The access log: one line a call, without values."""

import asyncio
import logging
import time

import grpc

from configsvc.rpc.context import ServerContext
from configsvc.rpc.interceptors.call import HEALTH_SERVICES, Call, Handler, Method
from configsvc.rpc.status import code_of, reason_of

logger = logging.getLogger("access")


def access_log(method: Method, handler: Handler) -> Handler:
    """Logs each call at its end. Health checks that succeed are not logged: they are too many."""
    is_quiet = method.path.startswith(HEALTH_SERVICES)

    async def run(call: Call, request: object) -> object:
        try:
            response = await handler(call, request)
        except asyncio.CancelledError:
            _write_line(call, _cancelled_code(call.context))
            raise
        except grpc.aio.AbortError:
            _write_line(call, _aborted_code(call.context))
            raise
        except Exception as error:
            _write_line(call, code_of(error), reason_of(error))
            raise
        if not is_quiet:
            _write_line(call, grpc.StatusCode.OK)
        return response

    return run


def log_unknown_method(path: str) -> None:
    """Logs a call of a method that no service has."""
    logger.info("call", extra={"method": path, "code": grpc.StatusCode.UNIMPLEMENTED.name})


def _write_line(call: Call, code: grpc.StatusCode, reason: str = "") -> None:
    fields = {"method": call.method.path, "code": code.name}
    if reason:
        fields["reason"] = reason
    logger.info(
        "call",
        extra={
            **fields,
            "duration_ms": round((time.perf_counter() - call.started) * 1000, 2),
            "request_id": call.request_id,
            "actor": call.request_metadata.get("x-actor", "anonymous"),
            "peer": call.peer,
        },
    )


def _cancelled_code(context: ServerContext) -> grpc.StatusCode:
    """CANCELLED if the caller left; DEADLINE_EXCEEDED if its deadline ended the call before this server did."""
    remaining = context.time_remaining()
    is_in_time = remaining is None or remaining > 0
    return grpc.StatusCode.CANCELLED if is_in_time else grpc.StatusCode.DEADLINE_EXCEEDED


def _aborted_code(context: ServerContext) -> grpc.StatusCode:
    """The code that a library's servicer has aborted the call with; grpc.aio gives it as a number."""
    code = context.code()
    return next((known for known in grpc.StatusCode if code in (known, known.value[0])), grpc.StatusCode.UNKNOWN)
