"""The check of file lengths names the file and the limit."""

from pathlib import Path

import pytest

from scripts.check_sizes import LONGEST_LINES, MEDIAN_LINES, violations


def write(root: Path, name: str, lines: int) -> None:
    path = root / "src" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x = 1\n" * lines)


@pytest.mark.parametrize(("lines", "expected"), [(LONGEST_LINES, 0), (LONGEST_LINES + 1, 1)])
def test_longest_file_is_named(tmp_path: Path, lines: int, expected: int) -> None:
    for number in range(3):
        write(tmp_path, f"short{number}.py", 10)
    write(tmp_path, "long.py", lines)
    assert len(violations(tmp_path)) == expected
    assert all("src/long.py" in line and str(LONGEST_LINES) in line for line in violations(tmp_path))


def test_median_is_limited_and_ignores_docstring_packages(tmp_path: Path) -> None:
    write(tmp_path, "a.py", MEDIAN_LINES + 1)
    for number in range(5):
        write(tmp_path, f"package{number}/__init__.py", 1)
    assert violations(tmp_path) == [f"the median of all files is {MEDIAN_LINES + 1} lines; the limit is {MEDIAN_LINES}"]
