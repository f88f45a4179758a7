"""`make` reports an unusable Python in one line, before it builds anything."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts/check_python.py"


def checked(prepare: str = "") -> tuple[int, str]:
    """Exit status and standard error of the script, in a Python that has run `prepare` first."""
    program = f"import runpy, sys\n{prepare}\nrunpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    return done.returncode, done.stderr


def test_current_python_is_accepted() -> None:
    assert checked() == (0, "")


def test_older_python_is_refused_with_the_needed_version() -> None:
    status, stderr = checked("sys.version_info = (3, 9, 2)")
    assert status == 1
    assert "needs Python 3.11 or newer" in stderr
    assert f"{sys.executable} is 3.9;" in stderr


def test_python_without_venv_is_refused_with_the_package_to_install() -> None:
    # As on Debian: the module exists, but what it needs does not.
    nothing = "import importlib.util as u; real = u.find_spec; u.find_spec = lambda n: n != 'ensurepip' and real(n)"
    status, stderr = checked(nothing)
    assert status == 1
    assert f"apt-get install python{sys.version_info[0]}.{sys.version_info[1]}-venv" in stderr


def test_needed_version_is_the_one_of_the_package() -> None:
    assert 'requires-python = ">=3.11"' in (ROOT / "pyproject.toml").read_text()
