"""The fingerprint of a write: whether a request id comes again with the same content."""

from configsvc.domain.json_values import Json, digest
from configsvc.domain.records import Author


def fingerprint(author: Author, *content: Json) -> str:
    """The digest of the content of the author's request. Empty without a request id: then nothing compares it."""
    return digest(*content) if author.request_id else ""
