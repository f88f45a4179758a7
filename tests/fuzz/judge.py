"""What an answer must be, whatever was asked."""

import json
from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from tests.fuzz.http1 import Answer
from tests.fuzz.rest import Request

# Errors of the server's side that a healthy service gives on purpose: a revision that does not come, a time that is over.
DELIBERATE = ("REVISION_NOT_REACHED", "DEADLINE_EXCEEDED", "GATEWAY_TIMEOUT")
# What only a fault of ours gives.
FAULTS = (
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.DATA_LOSS,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
)


def judge_rest(request: Request, answer: Answer) -> str:
    """What is wrong with an answer; empty if nothing is."""
    if answer.status == 0:
        return "" if not request.is_http else "the connection was closed without an answer"
    if answer.status < 400 or request.is_head:
        return "" if answer.status < 500 else f"status {answer.status} of a HEAD"
    if (not request.is_http and not answer.body) or _is_grpc(answer):
        return ""
    reason = reason_of(answer)
    if not reason:
        return f"status {answer.status} whose body is no error of ours: {answer.body[:200]!r}"
    if answer.status >= 500 and answer.status != 501 and reason not in DELIBERATE:
        return f"status {answer.status}: {answer.body[:300]!r}"
    return ""


def reason_of(answer: Answer) -> str:
    """The reason of a JSON error in the shape of google.rpc.Status; empty if it is none."""
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
    """What is wrong with an error; empty if nothing is."""
    call: Any = error
    if call.code() is grpc.StatusCode.INTERNAL and not call.trailing_metadata():
        # Made up by gRPC in this process, for a message that was sent as the server ended the stream. Ours have trailers.
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
