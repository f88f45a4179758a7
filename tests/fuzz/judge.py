"""What every answer must fulfil."""

import json
from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from tests.fuzz.http1 import Answer
from tests.fuzz.rest import Request

# Server errors that a healthy service returns on purpose: a future revision, an expired deadline.
DELIBERATE = ("REVISION_NOT_REACHED", "DEADLINE_EXCEEDED", "GATEWAY_TIMEOUT")
# Codes that only a bug of the service causes.
FAULTS = (
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.DATA_LOSS,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
)


def judge_rest(request: Request, answer: Answer) -> str:
    """What is wrong with an answer; empty if it is right."""
    if answer.status == 0:
        return "" if not request.is_http else "the connection was closed without an answer"
    if answer.status < 400 or request.is_head:
        return "" if answer.status < 500 else f"status {answer.status} of a HEAD"
    if (not request.is_http and not answer.body) or _is_grpc(answer):
        return ""
    reason = reason_of(answer)
    if not reason:
        return f"status {answer.status} with a body that is not an error of this service: {answer.body[:200]!r}"
    if answer.status >= 500 and answer.status != 501 and reason not in DELIBERATE:
        return f"status {answer.status}: {answer.body[:300]!r}"
    return ""


def reason_of(answer: Answer) -> str:
    """The reason of a JSON error in the form of google.rpc.Status; empty if the body is not one."""
    try:
        error = json.loads(answer.body)
    except ValueError:
        return ""
    if not isinstance(error, dict) or not isinstance(error.get("message"), str):
        return ""
    reasons = [detail.get("reason") for detail in error.get("details", ()) if isinstance(detail, dict)]
    return next((str(reason) for reason in reasons if reason), "")


def _is_grpc(answer: Answer) -> bool:
    return answer.headers.get("content-type", "").startswith("application/grpc")


def judge_rpc(error: grpc.RpcError) -> str:
    """What is wrong with an error; empty if it is right."""
    call: Any = error
    if call.code() is grpc.StatusCode.INTERNAL and not call.trailing_metadata():
        # gRPC makes this error in this process for a message that is sent while the server ends the stream. Errors of the
        # service have trailers.
        return ""
    reason = _reason(call)
    if call.code() in FAULTS and reason not in DELIBERATE:
        return f"{call.code()}: {call.details()!r} ({reason or 'no reason'})"
    if not reason and call.code() not in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNIMPLEMENTED):
        return f"{call.code()} without a reason: {call.details()!r}"
    return ""


def _reason(call: Any) -> str:
    try:
        status = rpc_status.from_call(call)
    except ValueError as error:
        return f"unreadable: {error}"
    info = error_details_pb2.ErrorInfo()
    for detail in status.details if status is not None else ():
        if detail.Unpack(info):
            return str(info.reason)
    return ""
