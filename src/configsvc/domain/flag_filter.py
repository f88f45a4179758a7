"""The filter of a list of flags."""

from dataclasses import dataclass
from datetime import datetime

from configsvc_client.evaluation import limits

from configsvc.domain.fields import Fields
from configsvc.domain.flags import member
from configsvc.domain.records import Record


@dataclass(frozen=True, slots=True)
class FlagFilter:
    """A flag matches if it satisfies every part that is given. None, and no tags: all flags.

    `tags`: the flag has all of them. `owner`: exactly this; empty: flags without an owner. `created_before` and
    `updated_before` are exclusive.
    """

    enabled: bool | None = None
    tags: tuple[str, ...] = ()
    owner: str | None = None
    created_before: datetime | None = None
    updated_before: datetime | None = None

    def check(self, fields: Fields) -> None:
        """Refuses values that no flag could have."""
        fields.count("tags", len(self.tags), limits.TAGS)
        for index, tag in enumerate(self.tags[: limits.TAGS]):
            fields.text(f"tags[{index}]", tag, limits.LABEL_CHARACTERS, required=True)
        fields.text("owner", self.owner or "", limits.OWNER_CHARACTERS)

    def matches(self, record: Record) -> bool:
        """Whether a flag, given its record, is in the list."""
        body = record.body
        return (
            self.enabled in (None, member(body, "enabled"))
            and self.owner in (None, member(body, "owner"))
            and set(self.tags) <= set(member(body, "tags"))
            and (self.created_before is None or record.created_at < self.created_before)
            and (self.updated_before is None or record.updated_at < self.updated_before)
        )

    @property
    def is_all(self) -> bool:
        """Whether every flag matches."""
        return self == FlagFilter()

    @property
    def query(self) -> tuple[object, ...]:
        """What a page token is bound to. A filter by `enabled` alone has the form of earlier releases, whose tokens stay valid."""
        times = [None if time is None else time.isoformat() for time in (self.created_before, self.updated_before)]
        more = (sorted(set(self.tags)), self.owner, *times)
        return (self.enabled,) if more == ([], None, None, None) else (self.enabled, *more)
