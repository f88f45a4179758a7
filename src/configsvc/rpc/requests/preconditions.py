"""The preconditions of a call: `etag` in the request, `If-Match` and `If-None-Match` in its metadata."""

from typing import Any

from configsvc.domain.preconditions import REASON, Precondition, agreed, etags
from configsvc.errors import InvalidInput
from configsvc.rpc.context import CallContext
from configsvc.rpc.requests import request_metadata

MATCH, NONE_MATCH = "if-match", "if-none-match"
# As people write them, in errors.
TITLES = {MATCH: "If-Match", NONE_MATCH: "If-None-Match"}


def from_call(context: CallContext, request: Any) -> Precondition:
    """What must hold for this write. Raises `InvalidInput` if that can't be understood, or contradicts itself."""
    header = _header(context, MATCH)
    return Precondition(agreed(header, etag_field(request), TITLES[MATCH]), _header(context, NONE_MATCH, weak=True))


def from_operation(operation: Any, path: str) -> Precondition:
    """What must hold for one write of a batch."""
    return Precondition(etag_field(operation, f"{path}.etag"))


def etag_field(request: Any, field: str = "etag") -> tuple[str, ...] | None:
    """The request's own; None if it gives none."""
    return etags(field, request.etag) if request.HasField("etag") else None


def check_create(context: CallContext) -> None:
    """A create needs no precondition: `If-None-Match` is what it means anyway. Refuses `If-Match`."""
    if request_metadata.values(context, MATCH):
        raise InvalidInput.of(TITLES[MATCH], "must not be given: what is created has no etag yet", REASON)
    _header(context, NONE_MATCH, weak=True)


def refuse_headers(context: CallContext) -> None:
    """A batch takes its preconditions in its operations. Refuses headers, which would say nothing about any of them."""
    for name, title in TITLES.items():
        if request_metadata.values(context, name):
            raise InvalidInput.of(title, "must not be given: each operation of a batch has its own etag", REASON)


def _header(context: CallContext, name: str, *, weak: bool = False) -> tuple[str, ...] | None:
    values = request_metadata.values(context, name)
    if not values:
        return None
    # Lines of one name are one list (RFC 9110, 5.3).
    text = ",".join(value if isinstance(value, str) else "\0" for value in values)
    return etags(TITLES[name], text, weak=weak)
