"""What a compaction deletes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class CompactionTarget:
    """Changes up to revision `until` go. The log ended at `head` when that was found.

    Only more changes may go later, because the log grows. So the target is found once, and reached in many transactions.
    """

    head: int
    until: int

    @classmethod
    def of(cls, rows: Sequence[Sequence[Any]]) -> Self:
        """Reads the result of `Statements.compaction_target`."""
        ((head, by_number, by_age, bound),) = rows
        return cls(head, min(max(by_number, by_age), bound))
