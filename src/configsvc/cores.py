"""How many cores this process may use: the least of its CPU affinity and the CPU quotas of its control groups."""

import math
import os
from collections.abc import Iterator
from pathlib import Path


def usable_cores(own_groups: Path = Path("/proc/self/cgroup"), mounted_at: Path = Path("/sys/fs/cgroup")) -> int:
    """At least 1. A quota of 1.5 cores counts as 1: a second busy process would only be throttled.

    `own_groups` names the process's control groups, and `mounted_at` is where their files are (man 7 cgroups). Systems
    without them have no quota.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([affinity, *map(math.floor, _quotas(own_groups, mounted_at))]))


def _quotas(own_groups: Path, mounted_at: Path) -> Iterator[float]:
    """The quotas in cores: those of the process's groups and of all groups around them."""
    for line in (_read(own_groups) or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            for folder in _with_parents(mounted_at, path):
                # "200000 100000" is two cores, "max 100000" no limit.
                limit, _, period = (_read(folder / "cpu.max") or "").partition(" ")
                if limit.isdigit():
                    yield int(limit) / int(period)
        elif "cpu" in controllers.split(","):
            for folder in _with_parents(mounted_at / controllers, path):
                # -1: no limit.
                limit, period = (_read(folder / f"cpu.cfs_{name}_us") or "" for name in ("quota", "period"))
                if limit.isdigit():
                    yield int(limit) / int(period)


def _with_parents(root: Path, path: str) -> Iterator[Path]:
    # In a container, the path may be one of the host that is not mounted; the container's own group is then the root.
    folder = root / path.strip("/")
    yield folder
    while folder != root:
        folder = folder.parent
        yield folder


def _read(file: Path) -> str | None:
    try:
        return file.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
