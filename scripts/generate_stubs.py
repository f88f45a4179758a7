"""Generates the typed stubs in `clients/python`, their only owner, from `proto/`.

The protos' package is `configsvc.v1`, as it is on the wire; the modules are `configsvc_client.v1`, so that the stubs
never share a name with the server's package `configsvc`. protoc has no option for that, so the imports are rewritten
here; file and symbol names inside the descriptors stay those of the protos.

`--check` writes nothing and fails where the committed stubs are not what the protos give.
"""

import filecmp
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "proto"
STUBS = ROOT / "clients" / "python" / "src" / "configsvc_client" / "v1"


def generate(into: Path) -> None:
    """Writes `*_pb2.py`, `*_pb2_grpc.py` and their `.pyi` into a directory."""
    with tempfile.TemporaryDirectory() as scratch:
        sources = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
        status = protoc.main(
            [
                "protoc",
                f"--proto_path={PROTOS}",
                f"--proto_path={ROOT / 'third_party' / 'googleapis'}",
                f"--proto_path={files('grpc_tools') / '_proto'}",
                f"--python_out={scratch}",
                f"--grpc_python_out={scratch}",
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


def main() -> int:
    """Generates, or compares with `--check`; returns the exit status."""
    if sys.argv[1:] != ["--check"]:
        generate(STUBS)
        return 0
    with tempfile.TemporaryDirectory() as fresh:
        generate(Path(fresh))
        names = {path.name for path in Path(fresh).iterdir()}
        committed = {path.name for path in STUBS.glob("*_pb2*")}
        _, changed, missing = filecmp.cmpfiles(fresh, STUBS, names, shallow=False)
        drifted = sorted({*changed, *missing, *(committed - names)})
    if drifted:
        sys.stderr.write(f"stubs differ from proto/, run `make proto`: {', '.join(drifted)}\n")
    return 1 if drifted else 0


if __name__ == "__main__":
    sys.exit(main())
