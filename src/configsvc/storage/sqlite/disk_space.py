"""Whether the database's files can grow.

SQLite reports "disk is full" for ENOSPC, but "disk I/O error" if a quota is used up or a file may not be longer. For an
operator all three mean the same: there is no space. So this module asks the operating system.
"""

import errno
import os
import tempfile
from pathlib import Path

# SQLite's page, the least that it allocates.
PAGE_BYTES = 4_096
# With less than this the disk counts as full: large values would be refused, and only some small ones accepted.
ENOUGH_BYTES = 1 << 20

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_disk_full(database: Path, size_bytes: int = PAGE_BYTES) -> bool:
    """Whether the system refuses to write so many bytes at the end of the longest of the database's files."""
    try:
        sizes = (file.stat().st_size for file in database.parent.glob(f"{database.name}*"))
        longest = max(sizes, default=0)
        # In the same directory, so that the file system and the quota are the same. A sparse file: only the bytes that
        # are written take space.
        with tempfile.TemporaryFile(dir=database.parent) as trial:
            return os.pwrite(trial.fileno(), bytes(size_bytes), longest) < size_bytes
    except OSError as error:
        return error.errno in _NO_SPACE
