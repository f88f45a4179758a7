"""Programs that Go builds."""

import shutil
from pathlib import Path

from benchmarks.peers.program import built, digest, needed, run

_FOLDER = Path(__file__).parent


def go_program(name: str, *, may_build: bool) -> Path:
    """The program of the folder `name`, built once for each state of its sources. Raises `MissingError`."""
    sources = sorted(path for path in (_FOLDER / name).iterdir() if path.is_file())

    def make(folder: Path) -> None:
        purpose = f"building {name}"
        copy = folder / "source"
        copy.mkdir()
        for path in sources:
            shutil.copyfile(path, copy / path.name)
        go = needed("go", purpose)
        run([go, "build", "-trimpath", "-o", str(folder / name), "."], purpose, directory=copy)

    return built(name, digest(*sources), make, may_build=may_build) / name
