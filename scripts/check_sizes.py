"""Checks the length of hand-written Python files: none has more than LONGEST_LINES, the median at most MEDIAN_LINES."""

import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = (
    "src",
    "clients/python/src/configsvc_client/evaluation",
    "clients/python/tests",
    "tests",
    "benchmarks",
    "scripts",
)
LONGEST_LINES = 400
MEDIAN_LINES = 120


def lengths(root: Path) -> dict[str, int]:
    """Lines of each module by its path. An `__init__.py` of one line has only a docstring and does not count."""
    files = (path for folder in FOLDERS for path in sorted((root / folder).rglob("*.py")))
    by_path = {str(path.relative_to(root)): len(path.read_text().splitlines()) for path in files}
    return {path: lines for path, lines in by_path.items() if lines > 1 or not path.endswith("__init__.py")}


def violations(root: Path) -> list[str]:
    """One line for each violation."""
    by_path = lengths(root)
    found = [f"{path}: {n} lines; the limit is {LONGEST_LINES}" for path, n in by_path.items() if n > LONGEST_LINES]
    median = statistics.median(by_path.values())
    if median > MEDIAN_LINES:
        found.append(f"the median of all files is {median:g} lines; the limit is {MEDIAN_LINES}")
    return found


if __name__ == "__main__":
    sys.exit("\n".join(violations(ROOT)) or 0)
