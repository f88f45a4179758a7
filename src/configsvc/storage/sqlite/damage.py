"""What is known to be damaged in the embedded database's file.

Two kinds are found in two ways. A row that was altered does not match its checksum, and is found when it is read. A
damaged structure (a page, an index) is found by SQLite's own check, or by a statement that stumbles over it; then what a
statement does not find may be there all the same.
"""

import logging
from pathlib import Path

from configsvc.errors import DataLoss

logger = logging.getLogger(__name__)

# Problems that are named; a file with more of them is as lost as one with these.
NAMED_PROBLEMS = 10


class Damage:
    """What is known to be damaged. It only grows: a restored file is opened by a new process.

    Found in several threads, and so written in one step.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._problems: tuple[str, ...] = ()
        self.is_structural = False

    def note(self, *problems: str, structural: bool = False) -> None:
        """Something was found."""
        self.is_structural = self.is_structural or structural
        new = [problem for problem in problems if problem not in self._problems]
        if new and len(self._problems) < NAMED_PROBLEMS:
            self._problems = (*self._problems, *new)[:NAMED_PROBLEMS]
            logger.error("%s is damaged: %s", self._path, "; ".join(new))

    def check(self) -> None:
        """Raises `DataLoss` if anything is known to be damaged."""
        if self._problems:
            raise DataLoss(
                f"{self._path} is damaged, and must be restored from a copy; until then no write is accepted, and what is"
                f" damaged is not served: {'; '.join(self._problems)}"
            )

    def check_structure(self) -> None:
        """Raises `DataLoss` if a statement may fail to find what is there."""
        if self.is_structural:
            self.check()
