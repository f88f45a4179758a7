"""The one table from the domain's errors to the codes of gRPC, and the details that a status carries for programs."""

import logging
from typing import NoReturn

import grpc
from google.protobuf import any_pb2
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from configsvc.errors import (
    AlreadyExists,
    DataLoss,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidInput,
    NotFound,
    ResourceExhausted,
    RevisionOutOfRange,
    ServiceError,
    StaleEtag,
    Unavailable,
)
from configsvc.rpc.context import ServerContext

logger = logging.getLogger(__name__)

DOMAIN = "configsvc"

CODES: dict[type[ServiceError], grpc.StatusCode] = {
    InvalidInput: grpc.StatusCode.INVALID_ARGUMENT,
    NotFound: grpc.StatusCode.NOT_FOUND,
    AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    StaleEtag: grpc.StatusCode.ABORTED,
    FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    RevisionOutOfRange: grpc.StatusCode.OUT_OF_RANGE,
    ResourceExhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    DataLoss: grpc.StatusCode.DATA_LOSS,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
}

# The trailers have a status twice: its message percent-encoded (up to three bytes for one), and the whole status in base64
# (four bytes for three). Peers refuse more than 8 KiB of trailers, and their callers would then see neither code nor field.
# These limits allow 3 * 600 + 4/3 * 4,000 bytes, which leaves some for the metadata of the call.
MESSAGE_BYTES = 600
DETAIL_TEXT_BYTES = 300
STATUS_BYTES = 4_000


def code_of(error: Exception) -> grpc.StatusCode:
    """The code of an error; INTERNAL for an error that is not the domain's."""
    return next((code for kind, code in CODES.items() if isinstance(error, kind)), grpc.StatusCode.INTERNAL)


def reason_of(error: Exception) -> str:
    """The UPPER_SNAKE reason of an error, which programs switch on."""
    return error.reason if isinstance(error, ServiceError) else ServiceError.default_reason


def status_of(error: Exception) -> status_pb2.Status:
    """The status that a caller gets for an error. It never has the text of an error that is not the domain's."""
    code = code_of(error)
    status = status_pb2.Status(code=code.value[0])
    if code is grpc.StatusCode.INTERNAL or not isinstance(error, ServiceError):
        status.message = "internal error; the log has its cause"
        _pack(status, error_details_pb2.ErrorInfo(reason=reason_of(error), domain=DOMAIN))
        return status
    status.message = _truncated(error.message, MESSAGE_BYTES)
    metadata = {name: _truncated(value) for name, value in error.metadata.items()}
    _pack(status, error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata))
    if isinstance(error, Unavailable):
        delay = Duration()
        delay.FromTimedelta(error.retry_after)
        _pack(status, error_details_pb2.RetryInfo(retry_delay=delay))
    if isinstance(error, InvalidInput):
        _pack(status, _bad_request(error, STATUS_BYTES - status.ByteSize()))
    return status


async def abort(context: ServerContext, error: Exception, *trailing: tuple[str, str]) -> NoReturn:
    """Ends a call with the status of an error. An unexpected error is logged."""
    if code_of(error) is grpc.StatusCode.INTERNAL:
        logger.error("unexpected error", exc_info=error)
    carried = rpc_status.to_status(status_of(error))
    await context.abort(carried.code, carried.details, (*carried.trailing_metadata, *trailing))


def _bad_request(error: InvalidInput, max_bytes: int) -> error_details_pb2.BadRequest:
    """The first violations, as many as fit."""
    request = error_details_pb2.BadRequest()
    for violation in error.violations:
        request.field_violations.add(field=_truncated(violation.field), description=_truncated(violation.description))
        if request.ByteSize() > max_bytes:
            del request.field_violations[-1]
            break
    return request


def _pack(status: status_pb2.Status, detail: object) -> None:
    packed = any_pb2.Any()
    packed.Pack(detail)  # type: ignore[arg-type]
    status.details.append(packed)


def _truncated(text: str, max_bytes: int = DETAIL_TEXT_BYTES) -> str:
    encoded = text.encode()
    if len(encoded) <= max_bytes:
        return text
    return encoded[: max_bytes - len("…".encode())].decode("utf-8", "ignore") + "…"
