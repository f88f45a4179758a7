"""Which engine GRPC_ENGINE and the addresses choose."""

from importlib.machinery import ModuleSpec

import pytest

from configsvc.rpc.engine import EngineOptions, choice, open_engine

SOCKETS, TCP = ["unix:/a", "unix:/b"], ["127.0.0.1:0"]


def chosen(wanted: str, listen: list[str]) -> str:
    return open_engine(wanted, listen, EngineOptions(1, print)).kind


@pytest.mark.parametrize(
    ("wanted", "listen", "kind"),
    [
        ("", SOCKETS, "native"),
        ("", TCP, "grpcio"),
        ("", [*SOCKETS, *TCP], "grpcio"),
        ("native", TCP, "native"),
        ("native", SOCKETS, "native"),
        ("grpcio", SOCKETS, "grpcio"),
    ],
)
def test_native_engine_serves_behind_the_gateway_or_if_told_to(wanted: str, listen: list[str], kind: str) -> None:
    assert chosen(wanted, listen) == kind


@pytest.mark.parametrize("wanted", ["", "native"])
def test_grpcio_serves_where_the_library_is_missing(wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str) -> ModuleSpec | None:
        assert name == "pygrpc_native"
        return None

    monkeypatch.setattr(choice, "find_spec", find)
    assert chosen(wanted, SOCKETS) == "grpcio"
