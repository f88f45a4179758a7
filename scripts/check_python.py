"""Reports what is missing before `make` builds the environment. This file runs on any Python since 3.6."""

import sys
from importlib.util import find_spec

NEEDED = (3, 11)


def problem(version: "tuple[int, ...]", has_venv: bool) -> str:
    """The error message for this Python; empty if it can be used."""
    current = ".".join(str(part) for part in version)
    needed = ".".join(str(part) for part in NEEDED)
    if version < NEEDED:
        what = f"configsvc needs Python {needed} or newer, and {sys.executable} is {current}"
        return f"{what}; name another: make PYTHON=python{needed} ..."
    if not has_venv:
        what = f"{sys.executable} can't make virtual environments"
        return f"{what}; on Debian and Ubuntu: apt-get install python{current}-venv"
    return ""


if __name__ == "__main__":
    # Debian has these two in a separate package.
    sys.exit(problem(sys.version_info[:2], all(find_spec(name) for name in ("venv", "ensurepip"))) or 0)
