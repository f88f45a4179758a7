"""A program that a comparison needs."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.engines import ServiceError
from tests.engines.java import cache_directory, make_once

# A long build: `unleash-edge` takes half an hour on two cores.
BUILD_SECONDS = 3_600


class MissingError(RuntimeError):
    """A program could not be found or built. The message says what was tried and what to do."""


@dataclass(frozen=True, slots=True)
class Program:
    """A program that can be run: the words that start it, its environment variables, and its version."""

    command: tuple[str, ...]
    version: str
    environment: Mapping[str, str] = field(default_factory=dict)


def on_path(name: str) -> Path | None:
    """The program's file, or None."""
    found = shutil.which(name)
    return Path(found) if found else None


def needed(name: str, purpose: str) -> str:
    """A tool that a build needs. Raises `MissingError`."""
    if (found := shutil.which(name)) is None:
        raise MissingError(f"{purpose}: '{name}' is not on the PATH")
    return found


def built(name: str, state: str, make: Callable[[Path], None], *, may_build: bool) -> Path:
    """The folder of the cache for `name` in this state of its sources. `make` fills it once.

    Raises `MissingError` if it is absent and may not be built.
    """
    place = cache_directory() / "benchmarks" / name / state
    if not may_build and not place.is_dir():
        raise MissingError(f"{name}: not built yet, and builds of minutes were not asked for")
    try:
        return make_once(place, make)
    except ServiceError as error:
        raise MissingError(f"{name}: {error}") from error


def digest(*files: Path) -> str:
    """The state of source files, for `built`."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]


def run(
    command: Sequence[str], purpose: str, *, directory: Path | None = None, environ: Mapping[str, str] | None = None
) -> str:
    """Runs a step of a build; returns its output. Raises `MissingError` with the end of what it said."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=directory,
            timeout=BUILD_SECONDS,
            check=False,
            env={**os.environ, **(environ or {})},
        )
    except subprocess.TimeoutExpired as error:
        raise MissingError(f"{purpose}: no end after {BUILD_SECONDS} s") from error
    if done.returncode:
        raise MissingError(f"{purpose} failed\n{(done.stdout + done.stderr).strip()[-800:]}")
    return done.stdout
