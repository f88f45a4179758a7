"""Says what is missing before `make` builds the environment. Any Python since 3.6 can read this file."""

import sys
from importlib.util import find_spec

NEEDED = (3, 11)


def complaint(version: "tuple[int, ...]", has_venv: bool) -> str:
    """What to do about this Python; empty where it can be used."""
    found = ".".join(str(part) for part in version)
    needed = ".".join(str(part) for part in NEEDED)
    if version < NEEDED:
        what = f"configsvc needs Python {needed} or newer, and {sys.executable} is {found}"
        return f"{what}; name another: make PYTHON=python{needed} ..."
    if not has_venv:
        what = f"{sys.executable} can't make virtual environments"
        return f"{what}; on Debian and Ubuntu: apt-get install python{found}-venv"
    return ""


if __name__ == "__main__":
    # Debian has the two in a package of their own.
    sys.exit(complaint(sys.version_info[:2], all(find_spec(name) for name in ("venv", "ensurepip"))) or 0)
