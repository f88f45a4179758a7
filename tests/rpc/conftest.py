"""Starts a server process behind pytest-grpc's channel and stub fixtures. pytest-grpc's own server is synchronous.

Each module has one server, on the embedded backends and a unix socket. A module that needs other settings overrides the
`settings` fixture.
"""

import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import grpc
import pytest
from configsvc_client.v1 import change_pb2_grpc, config_pb2_grpc, flag_pb2_grpc, registry_pb2_grpc

from configsvc.clock import SystemClock
from tests.app.replica import Replica, open_replica, open_storage
from tests.rpc.server_process import ServerProcess


@pytest.fixture(scope="module")
def settings() -> dict[str, str]:
    return {}


@pytest.fixture(scope="module")
def grpc_addr() -> Iterator[str]:
    """A new directory, since the path of a socket must be short, and those of pytest are not."""
    directory = tempfile.mkdtemp(prefix="rpc-")
    yield f"unix:{directory}/server.sock"
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def grpc_server(
    grpc_addr: str, settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    with ServerProcess(grpc_addr, tmp_path_factory.mktemp("server"), settings) as running:
        running.wait_until_ready()
        yield running


@pytest.fixture
def server(grpc_server: ServerProcess) -> ServerProcess:
    return grpc_server


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Callable[..., ServerProcess]]:
    """Starts a server that the test may stop: `own_server(SETTING="value")`."""
    started: list[ServerProcess] = []

    def start(**settings: str) -> ServerProcess:
        directory = Path(tempfile.mkdtemp(prefix="rpc-"))
        running = ServerProcess(f"unix:{directory}/server.sock", tmp_path, settings)
        started.append(running)
        running.start()
        running.wait_until_ready()
        return running

    yield start
    for running in started:
        running.close()
        shutil.rmtree(Path(running.address.removeprefix("unix:")).parent)


@pytest.fixture
async def replica(tmp_path: Path) -> AsyncIterator[Replica]:
    """A log in this process, for tests without a server process."""
    async with open_storage(tmp_path) as storage, open_replica(storage, SystemClock()) as opened:
        yield opened


@pytest.fixture
def configs(grpc_channel: grpc.Channel) -> config_pb2_grpc.ConfigServiceStub:
    return config_pb2_grpc.ConfigServiceStub(grpc_channel)


@pytest.fixture
def flags(grpc_channel: grpc.Channel) -> flag_pb2_grpc.FlagServiceStub:
    return flag_pb2_grpc.FlagServiceStub(grpc_channel)


@pytest.fixture
def registry(grpc_channel: grpc.Channel) -> registry_pb2_grpc.RegistryServiceStub:
    return registry_pb2_grpc.RegistryServiceStub(grpc_channel)


@pytest.fixture
def changes(grpc_channel: grpc.Channel) -> change_pb2_grpc.ChangeServiceStub:
    return change_pb2_grpc.ChangeServiceStub(grpc_channel)


@pytest.fixture
def environment(request: pytest.FixtureRequest) -> str:
    """An environment that no other test uses."""
    return f"e{abs(hash(request.node.nodeid)) % 10**12}"
