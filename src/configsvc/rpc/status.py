"""The one table from the domain's errors to gRPC's codes, with what each carries for programs."""

import logging
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from configsvc.errors import (
    AlreadyExists,
    InvalidInput,
    NotFound,
    RevisionOutOfRange,
    ServiceError,
    StaleEtag,
    StateForbids,
    TooLate,
    TooMuch,
    Unavailable,
)

logger = logging.getLogger(__name__)

DOMAIN = "configsvc"

TABLE: dict[type[ServiceError], grpc.StatusCode] = {
    InvalidInput: grpc.StatusCode.INVALID_ARGUMENT,
    NotFound: grpc.StatusCode.NOT_FOUND,
    AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    StaleEtag: grpc.StatusCode.ABORTED,
    StateForbids: grpc.StatusCode.FAILED_PRECONDITION,
    RevisionOutOfRange: grpc.StatusCode.OUT_OF_RANGE,
    TooMuch: grpc.StatusCode.RESOURCE_EXHAUSTED,
    TooLate: grpc.StatusCode.DEADLINE_EXCEEDED,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
}

# Details travel in a trailer, and peers refuse more than 8 KiB of those. Base64 makes four bytes of three.
VIOLATIONS = 20
TEXT_CHARACTERS = 300


def status_of(error: Exception) -> status_pb2.Status:
    """What a caller is told of an error. One that is not the domain's is logged, and its text is kept here."""
    if not isinstance(error, ServiceError):
        logger.error("an error that no one expected", exc_info=error)
        return _status(grpc.StatusCode.INTERNAL, "internal error; the log has its cause", "INTERNAL", {})
    code = next((code for kind, code in TABLE.items() if isinstance(error, kind)), grpc.StatusCode.UNKNOWN)
    metadata = {name: _short(value) for name, value in error.metadata.items()}
    status = _status(code, _short(error.message, 4 * TEXT_CHARACTERS), error.reason, metadata)
    if isinstance(error, InvalidInput):
        bad = error_details_pb2.BadRequest()
        for violation in error.violations[:VIOLATIONS]:
            bad.field_violations.add(field=_short(violation.field), description=_short(violation.description))
        _pack(status, bad)
    if isinstance(error, Unavailable):
        delay = Duration()
        delay.FromTimedelta(error.retry_after)
        _pack(status, error_details_pb2.RetryInfo(retry_delay=delay))
    return status


async def abort(context: Any, error: Exception) -> None:
    """Ends a call with an error. Never returns."""
    carried = rpc_status.to_status(status_of(error))
    await context.abort(carried.code, carried.details, tuple(carried.trailing_metadata))


def _status(code: grpc.StatusCode, message: str, reason: str, metadata: dict[str, str]) -> status_pb2.Status:
    status = status_pb2.Status(code=code.value[0], message=message)
    _pack(status, error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata))
    return status


def _pack(status: status_pb2.Status, detail: object) -> None:
    packed = any_pb2.Any()
    packed.Pack(detail)  # type: ignore[arg-type]
    status.details.append(packed)


def _short(text: str, most: int = TEXT_CHARACTERS) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
