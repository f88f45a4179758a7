"""`make` on a Python that won't do: said in one line, before anything is built."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts/check_python.py"


def checked(prepare: str = "") -> tuple[int, str]:
    """Exit status and what it said, in a Python in which `prepare` has run before."""
    program = f"import runpy, sys\n{prepare}\nrunpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    return done.returncode, done.stderr


def test_this_python_will_do() -> None:
    assert checked() == (0, "")


def test_an_older_python_is_named_with_what_is_needed() -> None:
    status, said = checked("sys.version_info = (3, 9, 2)")
    assert status == 1
    assert "needs Python 3.11 or newer" in said
    assert f"{sys.executable} is 3.9;" in said


def test_a_python_without_the_venv_module_is_told_the_package() -> None:
    # As Debian ships it: the module is there, what it needs is not.
    nothing = "import importlib.util as u; real = u.find_spec; u.find_spec = lambda n: n != 'ensurepip' and real(n)"
    status, said = checked(nothing)
    assert status == 1
    assert f"apt-get install python{sys.version_info[0]}.{sys.version_info[1]}-venv" in said


def test_the_needed_version_is_the_one_of_the_package() -> None:
    assert 'requires-python = ">=3.11"' in (ROOT / "pyproject.toml").read_text()
