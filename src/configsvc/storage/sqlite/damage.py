"""The known damage of the embedded database's file.

There are two kinds. A row that was altered does not match its checksum; reading the row detects it. A damaged structure
(a page, an index) is detected by SQLite's own check, or by a statement that fails on it. If the structure is damaged, a
statement may fail to find rows that exist.
"""

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from configsvc.errors import DataLoss

logger = logging.getLogger(__name__)

# Problems that are named. A file with more of them must be restored just the same.
NAMED_PROBLEMS = 10


class KnownDamage:
    """Collects problems. They are never cleared: a restored file is opened by a new process.

    Several threads add problems, so the tuple is replaced in one step.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._problems: tuple[str, ...] = ()
        self._is_structural = False

    def add(self, *problems: str, structural: bool = False) -> None:
        """Adds and logs problems. `structural`: a statement may fail to find rows."""
        self._is_structural = self._is_structural or structural
        new = [problem for problem in problems if problem not in self._problems]
        if new and len(self._problems) < NAMED_PROBLEMS:
            self._problems = (*self._problems, *new)[:NAMED_PROBLEMS]
            logger.error("%s is damaged: %s", self._path, "; ".join(new))

    @contextmanager
    def added(self) -> Iterator[None]:
        """Adds the damage that the block detects, and raises it."""
        try:
            yield
        except DataLoss as error:
            self.add(error.message, structural=isinstance(error.__cause__, sqlite3.Error))
            raise

    def raise_if_any(self) -> None:
        """Raises `DataLoss` if any damage is known."""
        if self._problems:
            raise DataLoss(
                f"{self._path} is damaged, and must be restored from a copy; until then no write is accepted, and"
                f" damaged rows are not served: {'; '.join(self._problems)}"
            )

    def raise_if_structural(self) -> None:
        """Raises `DataLoss` if a statement may fail to find rows that exist."""
        if self._is_structural:
            self.raise_if_any()
