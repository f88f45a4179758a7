"""etcd and h2load: from the PATH, else from Debian's packages, unpacked into a separate folder.

The packages are unpacked, not installed: this needs no root, starts no service (etcd's package would start one), and
does not change the system.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_DOWNLOAD_SECONDS = 180


class MissingError(RuntimeError):
    """A program could not be found. The message says what was tried and what to do."""


@dataclass(frozen=True, slots=True)
class Program:
    """A program that can be run, with its environment variables."""

    path: str
    environment: Mapping[str, str]


def etcd() -> Program:
    """etcd's server. Raises `MissingError`."""
    return _found("etcd", "etcd-server")


def h2load() -> Program:
    """The load generator of nghttp2. Raises `MissingError`."""
    return _found("h2load", "nghttp2-client")


def etcd_version() -> str:
    """The version of etcd's server; empty if there is none."""
    try:
        program = etcd()
    except MissingError:
        return ""
    environ = {**program.environment} or None
    said = subprocess.run([program.path, "--version"], capture_output=True, text=True, env=environ, check=False).stdout
    return said.partition("\n")[0].removeprefix("etcd Version: ")


def _found(name: str, package: str) -> Program:
    if on_path := shutil.which(name):
        return Program(on_path, {})
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "configsvc" / "benchmarks" / package
    if not folder.is_dir():
        _unpack(package, folder)
    binary = folder / "usr" / "bin" / name
    if not binary.is_file():
        raise MissingError(
            f"{name}: not on the PATH, and not in {binary}; install {package}, or put {name} on the PATH"
        )
    libraries = [str(path.parent) for path in (folder / "usr" / "lib").glob("**/*.so*")]
    return Program(str(binary), {"LD_LIBRARY_PATH": os.pathsep.join(dict.fromkeys(libraries))} if libraries else {})


def _unpack(package: str, folder: Path) -> None:
    """Unpacks the package and its missing dependencies."""
    tools = [shutil.which(tool) for tool in ("apt-get", "dpkg-deb")]
    if None in tools:
        raise MissingError(f"{package}: this system has no Debian packages; put the program on the PATH")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        archives, unpacked = Path(work, "archives"), Path(work, "unpacked")
        (archives / "partial").mkdir(parents=True)
        unpacked.mkdir()
        download = ["apt-get", "install", "--yes", "--download-only", "--no-install-recommends"]
        options = ["-o", "Debug::NoLocking=true", "-o", f"Dir::Cache::archives={archives}"]
        _run([*download, *options, package], f"{package} could not be downloaded: `apt-get update` first?")
        for archive in archives.glob("*.deb"):
            _run(["dpkg-deb", "--extract", str(archive), str(unpacked)], f"{archive.name} could not be unpacked")
        unpacked.rename(folder)


def _run(command: list[str], problem: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_DOWNLOAD_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise MissingError(f"{problem} (no answer in {_DOWNLOAD_SECONDS} s)") from error
    if done.returncode:
        raise MissingError(f"{problem}\n{done.stderr.strip()[-500:]}")
