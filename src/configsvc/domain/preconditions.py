"""Preconditions of a write: the state that it was made for (RFC 9110, 13.1). One that can't be understood is refused.

A missing precondition is `NO_PRECONDITION`. An empty or malformed one never is: a script whose `$ETAG` is empty must not
overwrite what it has not read.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from configsvc.domain.records import Record, Ref
from configsvc.domain.resources import already_exists, error_metadata, not_found
from configsvc.errors import InvalidInput, StaleEtag

ANY = "*"
REASON = "BAD_PRECONDITION"

# entity-tag of RFC 9110, 8.8.3, less the comma and the space, which this service's etags don't have. The quotes may be
# left out, as this service's messages show an etag.
_TAG = re.compile(r'(?P<weak>W/)?(?:"(?P<quoted>[!#-+\--\[\]-~]+)"|(?P<bare>[!#-+\--\[\]-~]+))')


@dataclass(frozen=True, slots=True)
class Precondition:
    """`match`: the current etag must be one of these; `*`: the record must exist. `none_match`: the current etag must be
    none of these; `*`: the record must not exist. None: nothing is asked.
    """

    match: tuple[str, ...] | None = None
    none_match: tuple[str, ...] | None = None

    @property
    def creates(self) -> bool:
        """Whether the record must not exist."""
        return self.none_match == (ANY,)

    @property
    def contents(self) -> tuple[object, ...]:
        """`content`, if anything is asked."""
        return () if self == NO_PRECONDITION else (self.content,)

    @property
    def content(self) -> object:
        """For the fingerprint of the request: the etag where it is one etag, as it was before there were lists."""
        if self.none_match is None and len(self.match or ()) <= 1:
            return self.match[0] if self.match else ""
        return [self.match, self.none_match]

    def check(self, ref: Ref, current: Record | None) -> None:
        """Raises `StaleEtag`, `AlreadyExists` or `NotFound` if the current state is not the one asked for."""
        if current is None:
            if self.match is not None:
                raise not_found(ref)
            return
        if self.creates:
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


def etags(field: str, text: str, *, weak: bool = False) -> tuple[str, ...]:
    """The etags of `If-Match`, `If-None-Match` or an `etag` field: `*`, or a list.

    `weak`: weak etags are taken, for the weak comparison of `If-None-Match`. Else they are refused, since none ever
    matches strongly.

    Raises:
        InvalidInput: there is none, or what is there is no etag. The text is not repeated.
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


def agreed(header: Sequence[str] | None, body: Sequence[str] | None, header_name: str) -> tuple[str, ...] | None:
    """What the header and the request's own etag ask together; `*` agrees with every etag.

    Raises:
        InvalidInput: no etag could be both.
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
