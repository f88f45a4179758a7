"""Eureka's server: its jars, and the one class that starts it."""

import shutil
from pathlib import Path

from benchmarks.peers.program import Program, built, digest, needed, run
from tests.engines.java import java

VERSION = "Spring Cloud Netflix 4.3.0"
_FOLDER = Path(__file__).parent
_SOURCE, _POM = "EurekaServer.java", "pom.xml"


def eureka() -> Program:
    """Raises `MissingError`."""
    place = built("eureka", digest(_FOLDER / _POM, _FOLDER / _SOURCE), _make, may_build=True)
    return Program((java(), "-cp", f"{place / 'classes'}:{place / 'jars'}/*", "bench.EurekaServer"), VERSION)


def _make(folder: Path) -> None:
    purpose = "fetching Eureka's server"
    maven = needed("mvn", purpose)
    # The pom is copied, because Maven writes files next to it.
    shutil.copyfile(_FOLDER / _POM, folder / _POM)
    jars = folder / "jars"
    copy = ("dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={jars}")
    run([maven, "--batch-mode", "--quiet", "-f", str(folder / _POM), *copy], purpose)
    compiler = needed("javac", "compiling Eureka's server")
    command = [compiler, "-proc:none", "-cp", f"{jars}/*", "-d", str(folder / "classes"), str(_FOLDER / _SOURCE)]
    run(command, "compiling Eureka's server")
