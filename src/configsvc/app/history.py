"""Versions of one record, of whatever kind, newest first."""

from configsvc.domain.configs import not_found
from configsvc.domain.pages import Page, page_cursor, page_token
from configsvc.domain.records import Change, Ref
from configsvc.storage.port import ChangePage, ChangeQuery, History


async def versions(history: History, ref: Ref, page_size: int, token: str) -> Page[Change]:
    """One page of a record's versions.

    Raises:
        NotFound: nothing was ever written under this ref, as far as the log goes back.
        InvalidInput: the token is not of this query.
    """
    query = ("versions", *_parts(ref))
    cursor = page_cursor(token, query, int, int)
    found = await history.search(
        ChangeQuery(
            limit=page_size,
            kind=ref.kind,
            environment=ref.environment,
            service=ref.service,
            key=ref.key,
            before=(cursor[0], cursor[1]) if cursor else None,
        )
    )
    if not found.changes and cursor is None:
        raise not_found(ref)
    return paged(found, query)


def paged(found: ChangePage, query: tuple[object, ...]) -> Page[Change]:
    """A page of changes with the token that continues it."""
    last = found.changes[-1] if found.more else None
    return Page(found.changes, page_token(query, (last.revision, last.ordinal)) if last else "", found.revision)


def _parts(ref: Ref) -> tuple[str, ...]:
    return (ref.kind, ref.environment, ref.service, ref.key)
