"""The client's wheel in fresh environments: at both ends of every version range that it declares, on every Python here.

It installs from the package registry, which takes a minute or two, so it has its own target: `make test-packages`.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

CLIENT = Path(__file__).parents[1]
ROOT = CLIENT.parents[1]
PROJECT = tomllib.loads((CLIENT / "pyproject.toml").read_text())["project"]

CHECK = """
import importlib, json, re, sys, warnings
from importlib.resources import files
warnings.simplefilter("error")
for name in ("change", "config", "flag", "health", "registry", "watch"):
    importlib.import_module(f"configsvc_client.v1.{name}_pb2_grpc")
import google.protobuf, grpc
from google.protobuf.json_format import MessageToDict
import configsvc_client
from configsvc_client.evaluation import Context, Flag, FlagSet, InvalidFlag, RegexUnavailable, bucket
from configsvc_client.v1 import flag_pb2

assert re.fullmatch(r"[0-9]+[.][0-9]+[.][0-9]+", configsvc_client.__version__)
message = flag_pb2.Flag(name="f", environment="test", enabled=True, rollout_percentage=100, salt="f-1", etag="1-1")
flag = Flag.from_proto(flag_pb2.Flag.FromString(message.SerializeToString()))
assert FlagSet("test", [flag]).evaluate("f", Context("u1")).value is True
try:
    Flag.from_json(MessageToDict(message))
except InvalidFlag as error:
    assert "rollout_percentage" in str(error)
else:
    raise AssertionError("camelCase was taken")

package = files("configsvc_client")
assert "service FlagService" in (package / "protos" / "configsvc" / "v1" / "flag.proto").read_text()
vectors = json.loads((package / "vectors" / "bucketing.json").read_text())
assert vectors
rule = {"conditions": [{"attribute": "plan", "operator": "matches", "values": ["^p"]}], "variant": "on"}
with_regex = {"name": "r", "environment": "test", "enabled": True, "salt": "r-1", "rules": [rule]}
try:
    found = FlagSet("test", [Flag.from_json(with_regex)]).evaluate("r", Context("u", {"plan": "pro"})).value
except RegexUnavailable as error:
    assert "configsvc-client[regex]" in str(error)
    found = None
print(google.protobuf.__version__, grpc.__version__, found)
"""


def pythons() -> list[str]:
    """Every Python of this machine from 3.11 on that can make environments, one per minor version."""
    found: dict[str, str] = {}
    folders = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep)]
    folders += sorted((Path.home() / ".pyenv" / "versions").glob("*/bin"))
    for folder in folders:
        for candidate in sorted(folder.glob("python3.[0-9]*")):
            name = re.fullmatch(r"python3\.(\d+)", candidate.name)
            if name and int(name[1]) >= 11 and candidate.name not in found and _can_make(candidate):
                found[candidate.name] = str(candidate)
    return [found[name] for name in sorted(found, key=lambda name: int(name.rpartition(".")[2]))]


def _can_make(python: Path) -> bool:
    asked = subprocess.run([python, "-c", "import venv, ensurepip"], capture_output=True, check=False)
    return asked.returncode == 0


def lowest(requirements: list[str]) -> list[str]:
    """The lower ends of these version ranges."""
    return [re.sub(r">=([^,;]+).*", r"==\1", one) for one in requirements]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, "--wheel-dir", str(folder), str(CLIENT)], check=True)
    (made,) = folder.glob("*.whl")
    return made


def checked(python: str, folder: Path, *packages: str) -> list[str]:
    """Installs into a new environment without compiling anything; returns what CHECK prints there."""
    made = folder / "venv"
    shutil.rmtree(made, ignore_errors=True)
    subprocess.run([python, "-m", "venv", str(made)], check=True)
    pip = [str(made / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--only-binary=:all:", *packages], check=True)
    done = subprocess.run([str(made / "bin" / "python"), "-c", CHECK], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_wheel_has_licence_protos_vectors_and_types(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert any(name.endswith("licenses/LICENSE") for name in names)
    for name in ("py.typed", "vectors/bucketing.json", "vectors/README.md", "protos/configsvc/v1/config.proto"):
        assert f"configsvc_client/{name}" in names
    assert (CLIENT / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("python", pythons(), ids=lambda path: Path(path).name)
def test_newest_versions(python: str, wheel: Path, tmp_path: Path) -> None:
    protobuf, _, regex = checked(python, tmp_path, f"configsvc-client[regex] @ {wheel.as_uri()}")
    assert protobuf.startswith("7.")
    assert regex == "True"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("python", pythons(), ids=lambda path: Path(path).name)
def test_oldest_versions_without_re2(python: str, wheel: Path, tmp_path: Path) -> None:
    protobuf, grpcio, regex = checked(python, tmp_path, str(wheel), *lowest(PROJECT["dependencies"]))
    assert (protobuf, regex) == ("6.30.0", "None")
    assert grpcio.startswith("1.80")


@pytest.mark.timeout(600)
def test_last_protobuf_6_and_oldest_re2(wheel: Path, tmp_path: Path) -> None:
    oldest = lowest(PROJECT["optional-dependencies"]["regex"])
    protobuf, _, regex = checked(sys.executable, tmp_path, str(wheel), "protobuf<7", *oldest)
    assert protobuf.startswith("6.")
    assert regex == "True"
