"""The audit log: a search over every write of every kind."""

from dataclasses import dataclass
from datetime import datetime

from configsvc.app.changelog.history import change_page
from configsvc.domain.fields import Fields, checked
from configsvc.domain.limits import Limits
from configsvc.domain.pages import Page, PageRequest, page_cursor
from configsvc.domain.records import Change, Kind
from configsvc.storage.port import ChangeHistory, ChangeQuery

KINDS = tuple(kind.value for kind in Kind)


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which changes a search selects: every member that is given must match.

    Empty texts, None and 0 are not given; but a `service_name` of "" selects changes without a service.
    """

    environment: str = ""
    service_name: str | None = None
    kind: str = ""
    key: str = ""
    actor: str = ""
    reason: str = ""
    from_time: datetime | None = None
    until_time: datetime | None = None
    after_revision: int = 0
    until_revision: int = 0

    def check(self, fields: Fields) -> None:
        """Refuses what no change could match."""
        if self.kind and self.kind not in KINDS:
            fields.refuse("kind", f"must be one of {', '.join(KINDS)}; it is '{self.kind}'")
        for name, revision in (("after_revision", self.after_revision), ("until_revision", self.until_revision)):
            if revision < 0:
                fields.refuse(name, f"must not be negative; it is {revision}")
        if self.from_time and self.until_time and self.from_time >= self.until_time:
            fields.refuse("until_time", "must be after from_time")
        longest = fields.limits.reason_characters
        for name in ("environment", "key", "actor", "reason"):
            fields.text(name, getattr(self, name), longest)
        fields.text("service_name", self.service_name or "", longest)

    @property
    def query(self) -> tuple[object, ...]:
        """What a page token is bound to."""
        texts = (self.environment, self.service_name, self.kind, self.key, self.actor, self.reason)
        times = [time.isoformat() if time else "" for time in (self.from_time, self.until_time)]
        return (*texts, *times, self.after_revision, self.until_revision)


@dataclass(frozen=True, slots=True)
class AuditPage:
    """A page of changes. Changes up to revision `compacted_revision`, inclusive, were compacted away."""

    page: Page[Change]
    compacted_revision: int


class AuditLog:
    """Searches the change log."""

    def __init__(self, *, history: ChangeHistory, limits: Limits) -> None:
        self._history = history
        self._limits = limits

    async def search(self, selected: AuditFilter, page: PageRequest) -> AuditPage:
        """One page, newest first."""
        with checked(self._limits) as fields:
            selected.check(fields)
            size = fields.page_size(page.size)
        cursor = page_cursor(page.token, selected.query, int, int)
        found = await self._history.search(
            ChangeQuery(
                limit=size,
                kind=Kind(selected.kind) if selected.kind else None,
                environment=selected.environment or None,
                service=selected.service_name,
                key=selected.key or None,
                actor=selected.actor or None,
                reason=selected.reason or None,
                from_time=selected.from_time,
                until_time=selected.until_time,
                after_revision=selected.after_revision or None,
                until_revision=selected.until_revision or None,
                before=(cursor[0], cursor[1]) if cursor else None,
            )
        )
        return AuditPage(change_page(found, selected.query, page.token), found.compacted)
