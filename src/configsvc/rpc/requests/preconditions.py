"""The preconditions of a call: `etag` in the request, `If-Match` and `If-None-Match` in its metadata."""

from typing import Literal, Protocol

from configsvc.domain.preconditions import REASON, Precondition, combine_etags, parse_etags
from configsvc.errors import InvalidInput
from configsvc.rpc.context import CallContext
from configsvc.rpc.requests import request_metadata

IF_MATCH, IF_NONE_MATCH = "if-match", "if-none-match"
# As HTTP writes them, for the field of an error.
TITLES = {IF_MATCH: "If-Match", IF_NONE_MATCH: "If-None-Match"}


class HasEtag(Protocol):
    """A request with an optional etag."""

    @property
    def etag(self) -> str: ...

    def HasField(self, field_name: Literal["etag"], /) -> bool: ...  # noqa: N802


def from_call(context: CallContext, request: HasEtag) -> Precondition:
    """The precondition of a write. Raises `InvalidInput` if it can't be understood, or contradicts itself."""
    match = combine_etags(_header_etags(context, IF_MATCH), etag_field(request), TITLES[IF_MATCH])
    return Precondition(match, _header_etags(context, IF_NONE_MATCH, weak=True))


def from_operation(operation: HasEtag, path: str) -> Precondition:
    """The precondition of one write of a batch. `path` is the operation's own, for the field of an error."""
    return Precondition(etag_field(operation, f"{path}.etag"))


def etag_field(request: HasEtag, field: str = "etag") -> tuple[str, ...] | None:
    """The etags in the `etag` field of a request; None if it is not set."""
    return parse_etags(field, request.etag) if request.HasField("etag") else None


def check_create(context: CallContext) -> None:
    """Refuses `If-Match` for a create. `If-None-Match: *` is allowed: every create means it."""
    if request_metadata.values(context, IF_MATCH):
        raise InvalidInput.of(TITLES[IF_MATCH], "must not be given: what is created has no etag yet", REASON)
    _header_etags(context, IF_NONE_MATCH, weak=True)


def refuse_headers(context: CallContext) -> None:
    """Refuses the headers for a batch: its operations have their own etags, and a header names none of them."""
    for name, title in TITLES.items():
        if request_metadata.values(context, name):
            raise InvalidInput.of(title, "must not be given: each operation of a batch has its own etag", REASON)


def _header_etags(context: CallContext, name: str, *, weak: bool = False) -> tuple[str, ...] | None:
    values = request_metadata.values(context, name)
    if not values:
        return None
    # Several lines with one name are one list (RFC 9110, 5.3). The NUL makes a value that is not text malformed.
    text = ",".join(value if isinstance(value, str) else "\0" for value in values)
    return parse_etags(TITLES[name], text, weak=weak)
