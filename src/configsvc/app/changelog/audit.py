"""The audit trail: every write of every kind, looked up."""

from dataclasses import dataclass
from datetime import datetime

from configsvc.app.changelog.history import change_page
from configsvc.domain.fields import checked
from configsvc.domain.limits import Limits
from configsvc.domain.pages import Page, page_cursor
from configsvc.domain.records import Change, Kind
from configsvc.storage.port import ChangeHistory, ChangeQuery

KINDS = tuple(kind.value for kind in Kind)


@dataclass(frozen=True, slots=True)
class AuditPage:
    """A page of changes. Those up to and with revision `compacted_revision` are gone."""

    page: Page[Change]
    compacted_revision: int


class AuditLog:
    """Reads the change log by what people ask of it."""

    def __init__(self, *, history: ChangeHistory, limits: Limits) -> None:
        self._history = history
        self._limits = limits

    async def search(
        self,
        *,
        environment: str = "",
        service_name: str | None = None,
        kind: str = "",
        key: str = "",
        actor: str = "",
        reason: str = "",
        from_time: datetime | None = None,
        until_time: datetime | None = None,
        after_revision: int = 0,
        until_revision: int = 0,
        page_size: int = 0,
        page_token: str = "",
    ) -> AuditPage:
        """One page, newest first. Filters that are given must all match; `service_name` "" asks for no service."""
        with checked(self._limits) as fields:
            if kind and kind not in KINDS:
                fields.refuse("kind", f"must be one of {', '.join(KINDS)}; it is '{kind}'")
            for name, revision in (("after_revision", after_revision), ("until_revision", until_revision)):
                if revision < 0:
                    fields.refuse(name, f"must not be negative; it is {revision}")
            if from_time and until_time and from_time >= until_time:
                fields.refuse("until_time", "must be after from_time")
            for name, text in (("environment", environment), ("key", key), ("actor", actor), ("reason", reason)):
                fields.text(name, text, self._limits.reason_characters)
            fields.text("service_name", service_name or "", self._limits.reason_characters)
            page_size = fields.page_size(page_size)
        times = [time.isoformat() if time else "" for time in (from_time, until_time)]
        query = (environment, service_name, kind, key, actor, reason, *times, after_revision, until_revision)
        cursor = page_cursor(page_token, query, int, int)
        found = await self._history.search(
            ChangeQuery(
                limit=page_size,
                kind=Kind(kind) if kind else None,
                environment=environment or None,
                service=service_name,
                key=key or None,
                actor=actor or None,
                reason=reason or None,
                from_time=from_time,
                until_time=until_time,
                after_revision=after_revision or None,
                until_revision=until_revision or None,
                before=(cursor[0], cursor[1]) if cursor else None,
            )
        )
        return AuditPage(change_page(found, query, page_token), found.compacted)
