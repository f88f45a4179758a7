"""Envoy's local replies: JSON in the shape of google.rpc.Status for REST, a status with an ErrorInfo for gRPC.

One table serves both. Envoy's `local_reply_config` consists of the mappers that are made of it.
"""

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

DOMAIN = "configsvc"
# Stands for the text of Envoy, or of the Lua filter that replies.
TEXT = "%LOCAL_REPLY_BODY%"
# The header in which a Lua filter gives its reason.
REFUSED = "x-configsvc-refused"
# The header by which a Lua filter says that its reply is JSON already, because it names a field.
VIOLATION = "x-configsvc-violation"


@dataclass(frozen=True, slots=True)
class LocalReply:
    """The gRPC code, the reason and the message for an HTTP status of Envoy's own. `message` may contain `TEXT`."""

    status: int
    code: int
    reason: str
    message: str = TEXT


# Also for a message that the server refuses (deploy/lua/answer.lua).
TOO_LARGE = LocalReply(
    413,
    code_pb2.RESOURCE_EXHAUSTED,
    "BODY_TOO_LARGE",
    "The request is larger than this service accepts (MAX_REQUEST_BYTES): as it is sent, decompressed, or as a gRPC message.",
)
TABLE = (
    # If a request is not HTTP, Envoy gives a short text or none.
    LocalReply(
        400,
        code_pb2.INVALID_ARGUMENT,
        "MALFORMED_REQUEST",
        f"The request can't be read: its first line, a header or its body breaks the rules for it. {TEXT}",
    ),
    LocalReply(403, code_pb2.PERMISSION_DENIED, "NOT_ALLOWED"),
    LocalReply(
        404,
        code_pb2.NOT_FOUND,
        "ROUTE_NOT_FOUND",
        f"No such path. The paths are the google.api.http annotations in proto/configsvc/v1. {TEXT}",
    ),
    LocalReply(405, code_pb2.UNIMPLEMENTED, "METHOD_NOT_ALLOWED"),
    LocalReply(408, code_pb2.DEADLINE_EXCEEDED, "REQUEST_TIMEOUT", "The request did not arrive in time."),
    TOO_LARGE,
    LocalReply(415, code_pb2.INVALID_ARGUMENT, "UNSUPPORTED_MEDIA_TYPE"),
    LocalReply(431, code_pb2.INVALID_ARGUMENT, "HEADERS_TOO_LARGE", "The request's headers are larger than 96 KiB."),
    LocalReply(
        503,
        code_pb2.UNAVAILABLE,
        "SERVER_UNREACHABLE",
        "The service can't be reached now, or has too much to do; try again in a moment.",
    ),
    LocalReply(504, code_pb2.DEADLINE_EXCEEDED, "GATEWAY_TIMEOUT", "The service did not answer in time."),
)
# For every other status of Envoy's own.
OTHER = LocalReply(0, code_pb2.INTERNAL, "GATEWAY_ERROR")


def mappers() -> list[dict[str, Any]]:
    """The mappers, in the order in which Envoy tries them."""
    return [*_for_grpc(), *_for_rest()]


def _for_grpc() -> Iterator[dict[str, Any]]:
    """The message is the reply's text. Envoy chooses the code, unless the table has a better one."""
    # The transcoder turns a REST request into a gRPC request before it reads it: the content type alone doesn't tell.
    grpc = _all(
        _header_filter("content-type", string_match={"safe_regex": {"regex": "application/grpc([+;].*)?"}}),
        _header_filter("x-configsvc-rest", present_match=True, invert_match=True),
    )
    for reply in TABLE:
        if TEXT not in reply.message:
            # A reply without a body: the gRPC-Web filter would replace the status of one that has a body.
            yield {
                "filter": _all(grpc, _status(reply)),
                "status_code": 200,
                "headers_to_add": [
                    _header("content-type", "application/grpc"),
                    _header("grpc-status", str(reply.code)),
                    _header("grpc-message", reply.message),
                    _header("grpc-status-details-bin", status_details(reply)),
                ],
                "body_format_override": _plain(""),
            }
    yield {"filter": grpc, "body_format_override": _plain(TEXT)}


def _for_rest() -> Iterator[dict[str, Any]]:
    yield {
        "filter": _header_filter(VIOLATION, present_match=True),
        "body_format_override": {**_plain(TEXT), "content_type": "application/json"},
    }
    for reply in TABLE:
        yield {
            "filter": _all(_refused(), _status(reply)),
            "body_format_override": _json(reply, TEXT, f"%REQ({REFUSED})%"),
        }
    for reply in (*TABLE, OTHER):
        yield {"filter": _status(reply), "body_format_override": _json(reply, reply.message, reply.reason)}


def _json(reply: LocalReply, message: str, reason: str) -> dict[str, Any]:
    info = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": reason,
        "domain": DOMAIN,
        "metadata": {"flags": "%RESPONSE_FLAGS%"},
    }
    return {"json_format": {"code": reply.code, "message": message, "details": [info]}}


def _plain(text: str) -> dict[str, Any]:
    return {"text_format_source": {"inline_string": text}}


def status_details(reply: LocalReply) -> str:
    """The value of the trailer `grpc-status-details-bin`: a google.rpc.Status."""
    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.ErrorInfo(reason=reply.reason, domain=DOMAIN))
    status = status_pb2.Status(code=reply.code, message=reply.message, details=[detail])
    return base64.b64encode(status.SerializeToString()).decode()


def _header(name: str, value: str) -> dict[str, Any]:
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def _refused() -> dict[str, Any]:
    return _header_filter(REFUSED, present_match=True)


def _header_filter(name: str, **match: Any) -> dict[str, Any]:
    """Matches a header of the request."""
    return {"header_filter": {"header": {"name": name, **match}}}


def _status(reply: LocalReply) -> dict[str, Any]:
    op, value = ("EQ", reply.status) if reply.status else ("GE", 400)
    return {
        "status_code_filter": {
            "comparison": {"op": op, "value": {"default_value": value, "runtime_key": f"gateway.reply_{value}"}}
        }
    }


def _all(*filters: dict[str, Any]) -> dict[str, Any]:
    return {"and_filter": {"filters": list(filters)}}
