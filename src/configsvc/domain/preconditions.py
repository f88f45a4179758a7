"""Preconditions of a write: the state that it is meant for (RFC 9110, 13.1).

A write without a precondition has `NO_PRECONDITION`. A precondition that is empty or malformed is refused: a script whose
`$ETAG` is empty must not overwrite a state that it has not read.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from configsvc.domain.records import Record, Ref
from configsvc.domain.resources import already_exists, error_metadata, not_found
from configsvc.errors import InvalidInput, StaleEtag

ANY = "*"
REASON = "BAD_PRECONDITION"

# An entity-tag (RFC 9110, 8.8.3) without commas and spaces, which this service's etags never have. The quotes are
# optional, because the messages of this service show an etag without them.
_TAG = re.compile(r'(?P<weak>W/)?(?:"(?P<quoted>[!#-+\--\[\]-~]+)"|(?P<bare>[!#-+\--\[\]-~]+))')


@dataclass(frozen=True, slots=True)
class Precondition:
    """`match`: the current etag must be one of these; `*`: the record must exist. `none_match`: the current etag must be
    none of these; `*`: the record must not exist. None: no condition.
    """

    match: tuple[str, ...] | None = None
    none_match: tuple[str, ...] | None = None

    @property
    def requires_absence(self) -> bool:
        """Whether the record must not exist."""
        return self.none_match == (ANY,)

    @property
    def contents(self) -> tuple[object, ...]:
        """`content`, if there is any condition."""
        return () if self == NO_PRECONDITION else (self.content,)

    @property
    def content(self) -> object:
        """What a retry repeats, for the fingerprint of the request. A single etag stays a text, as in releases without lists."""
        if self.none_match is None and len(self.match or ()) <= 1:
            return self.match[0] if self.match else ""
        return [self.match, self.none_match]

    def check(self, ref: Ref, current: Record | None) -> None:
        """Raises `StaleEtag`, `AlreadyExists` or `NotFound` if the current state does not meet the condition."""
        if current is None:
            if self.match is not None:
                raise not_found(ref)
            return
        if self.requires_absence:
            raise already_exists(current)
        if self.match is not None and self.match != (ANY,) and current.etag not in self.match:
            raise StaleEtag(
                f"{ref.kind} '{ref.key}' has changed since it was read: its etag is {current.etag},"
                f" not {' or '.join(self.match[:3])}",
                metadata={**error_metadata(ref), "etag": current.etag},
            )
        if self.none_match is not None and current.etag in self.none_match:
            raise StaleEtag(
                f"{ref.kind} '{ref.key}' still has the etag {current.etag}, which the precondition excludes",
                "ETAG_EXCLUDED",
                {**error_metadata(ref), "etag": current.etag},
            )


NO_PRECONDITION = Precondition()


def parse_etags(field: str, text: str, *, weak: bool = False) -> tuple[str, ...]:
    """The etags of `If-Match`, `If-None-Match` or an `etag` field: `*`, or a list.

    `weak`: weak etags are accepted, for the weak comparison of `If-None-Match`. Otherwise they are refused, because a weak
    etag never matches in a strong comparison.

    Raises:
        InvalidInput: the text has no etag, or something that is not an etag. The error does not repeat the text.
    """
    parts = [part.strip(" \t") for part in text.split(",")]
    if parts == [ANY]:
        return (ANY,)
    found = [_TAG.fullmatch(part) for part in parts if part]
    if not found:
        raise InvalidInput.of(field, "must not be empty: an etag, a list of etags or *; leave it out for none", REASON)
    tags: list[str] = []
    for tag in found:
        if tag is None or (tag["bare"] or tag["quoted"]) == ANY:
            raise InvalidInput.of(field, 'must be "ETAG", a list such as "ETAG", "ETAG", or * alone', REASON)
        if tag["weak"] and not weak:
            raise InvalidInput.of(
                field, "must not be weak (W/): a weak etag never matches here, and this service's are strong", REASON
            )
        tags.append(tag["quoted"] or tag["bare"])
    return tuple(dict.fromkeys(tags))


def combine_etags(header: Sequence[str] | None, body: Sequence[str] | None, header_name: str) -> tuple[str, ...] | None:
    """The etags that both the header and the request's own etag field allow; `*` allows every etag.

    Raises:
        InvalidInput: no etag meets both.
    """
    if header is None or body is None or tuple(header) == (ANY,):
        chosen = header if body is None else body
        return None if chosen is None else tuple(chosen)
    if tuple(body) == (ANY,):
        return tuple(header)
    both = tuple(tag for tag in header if tag in body)
    if not both:
        raise InvalidInput.of("etag", f"must agree with {header_name}: give one of them, or the same etag", REASON)
    return both
