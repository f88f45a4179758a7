"""Whether a file of the database could grow.

SQLite says that the disk is full where the system says ENOSPC, and "disk I/O error" where it says that a quota is used
up or that a file may not be longer. To whoever runs the service all three are the same: there is no room. So the system
is asked itself.
"""

import errno
import os
import tempfile
from pathlib import Path

# SQLite's page, and so the least that it asks for.
PAGE_BYTES = 4_096
# With less the disk is as good as full: the largest values are refused, and some small ones are not.
ENOUGH_BYTES = 1 << 20

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_disk_full(database: Path, size_bytes: int = PAGE_BYTES) -> bool:
    """Whether the system refuses so many bytes behind the end of the longest file of a database."""
    try:
        longest = max(file.stat().st_size for file in database.parent.glob(f"{database.name}*"))
        # Beside it, so that the file system and its quota are the same. What lies before them takes no room.
        with tempfile.TemporaryFile(dir=database.parent) as trial:
            return os.pwrite(trial.fileno(), bytes(size_bytes), longest) < size_bytes
    except OSError as error:
        return error.errno in _NO_ROOM
