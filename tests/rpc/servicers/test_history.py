"""Etags, page tokens and revisions of another history of the log are refused."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import grpc
import pytest
from configsvc_client.v1 import (
    change_pb2,
    change_pb2_grpc,
    config_pb2,
    config_pb2_grpc,
    flag_pb2,
    flag_pb2_grpc,
    health_pb2,
    health_pb2_grpc,
    registry_pb2,
    registry_pb2_grpc,
)

from tests.rpc.messages import put
from tests.rpc.refusals import Refusal, refused
from tests.rpc.response_stream import ResponseStream
from tests.rpc.server_process import ServerProcess

ENV = "e"
# For each method with pages, a request that finds more than one item.
PAGED: dict[str, Any] = {
    "ListConfigs": config_pb2.ListConfigsRequest(environment=ENV),
    "ListConfigHistory": config_pb2.ListConfigHistoryRequest(environment=ENV, key="k0"),
    "GetEffectiveConfig": config_pb2.GetEffectiveConfigRequest(environment=ENV, service_name="svc"),
    "ListFlags": flag_pb2.ListFlagsRequest(environment=ENV),
    "ListFlagHistory": flag_pb2.ListFlagHistoryRequest(environment=ENV, name="f0"),
    "ListServices": registry_pb2.ListServicesRequest(),
    "GetService": registry_pb2.GetServiceRequest(service_name="s0"),
    "DiscoverInstances": registry_pb2.DiscoverInstancesRequest(service_name="s0"),
    "ListChanges": change_pb2.ListChangesRequest(),
}
SERVICES = (
    (config_pb2, config_pb2_grpc.ConfigServiceStub),
    (flag_pb2, flag_pb2_grpc.FlagServiceStub),
    (registry_pb2, registry_pb2_grpc.RegistryServiceStub),
    (change_pb2, change_pb2_grpc.ChangeServiceStub),
)


@dataclass
class Client:
    """Calls by the name of the method, and what the client read before the database got another history."""

    channel: grpc.Channel
    tokens: dict[str, str] = field(default_factory=dict)
    etag: str = ""
    history: str = ""
    revision: int = 0

    def __getattr__(self, name: str) -> Any:
        for module, stub in SERVICES:
            (service,) = module.DESCRIPTOR.services_by_name.values()
            if name in service.methods_by_name:
                return getattr(stub(self.channel), name)
        raise AttributeError(name)

    def health(self) -> health_pb2.Health:
        return health_pb2_grpc.HealthServiceStub(self.channel).GetHealth(health_pb2.GetHealthRequest()).health


def page(client: Client, method: str, token: str = "") -> Any:
    request = type(PAGED[method])()
    request.CopyFrom(PAGED[method])
    request.page_size, request.page_token = 1, token
    return getattr(client, method)(request)


def new_history(server: ServerProcess, *options: str) -> str:
    """Gives the database of a stopped server a new history, as an operator does."""
    ran = subprocess.run(
        [sys.executable, "-m", "configsvc", "new-history", *options],
        env={"SQLITE_PATH": str(server.database)},
        capture_output=True,
        text=True,
        check=True,
    )
    return ran.stdout


@pytest.fixture
def client_of_old_history(own_server: Callable[..., ServerProcess]) -> Iterator[Client]:
    """A client of a server whose log got another history after the client read from it."""
    server = own_server()
    with server.channel() as channel:
        client = Client(channel)
        for number in range(3):
            put(client, ENV, f"k{number}", 1)
            put(client, ENV, f"k{number}", 2)
            for enabled in (False, True):
                client.UpdateFlag(
                    flag_pb2.UpdateFlagRequest(name=f"f{number}", environment=ENV, enabled=enabled, allow_missing=True)
                )
            for port in (1, 2):
                client.RegisterInstance(
                    registry_pb2.RegisterInstanceRequest(
                        service_name=f"s{number}", service_url=f"http://h.example:{port}"
                    )
                )
        client.tokens = {method: page(client, method).next_page_token for method in PAGED}
        found, call = client.GetConfig.with_call(config_pb2.GetConfigRequest(key="k0", environment=ENV))
        client.etag, client.revision = found.config.etag, found.revision
        client.history = dict(call.trailing_metadata())["x-history"]
        server.terminate()
        server.wait_for_exit()
        assert "from revision" in new_history(server)
        server.start()
        server.wait_until_ready()
        yield client


def is_of_another_history(refusal: Refusal, current: str) -> bool:
    assert refusal.code is grpc.StatusCode.OUT_OF_RANGE, refusal
    assert refusal.info.reason == "HISTORY_CHANGED"
    return bool(refusal.info.metadata["history"] == current)


def test_every_method_with_pages_is_covered() -> None:
    methods = [m for module, _ in SERVICES for s in module.DESCRIPTOR.services_by_name.values() for m in s.methods]
    assert {m.name for m in methods if "page_token" in m.input_type.fields_by_name} == PAGED.keys()


def test_etags_tokens_and_revisions_of_another_history_are_refused(client_of_old_history: Client) -> None:
    health = client_of_old_history.health()
    assert health.history != client_of_old_history.history
    assert client_of_old_history.revision < health.history_since <= health.applied_revision
    assert "an operator marked it" in health.history_reason
    # Page tokens.
    for method, token in client_of_old_history.tokens.items():
        assert token, method
        refusal = refused(partial(page, client_of_old_history, method, token))
        assert is_of_another_history(refusal, health.history), method
        assert page(client_of_old_history, method, page(client_of_old_history, method).next_page_token)
    # Etags.
    update = config_pb2.UpdateConfigRequest(key="k0", environment=ENV, etag=client_of_old_history.etag)
    update.value.number_value = 9
    assert refused(lambda: client_of_old_history.UpdateConfig(update)).code is grpc.StatusCode.ABORTED
    # An etag of a release without histories.
    update.etag = client_of_old_history.etag.rpartition("-")[0]
    assert refused(lambda: client_of_old_history.UpdateConfig(update)).code is grpc.StatusCode.ABORTED
    # Revisions, if the caller names their history.
    for method, request in (
        (
            "GetConfig",
            config_pb2.GetConfigRequest(key="k0", environment=ENV, min_revision=client_of_old_history.revision),
        ),
        ("ListChanges", change_pb2.ListChangesRequest(after_revision=client_of_old_history.revision)),
        ("UpdateConfig", update),
    ):
        meant = (("x-history", client_of_old_history.history),)
        call = getattr(client_of_old_history, method)
        assert is_of_another_history(refused(lambda c=call, r=request, m=meant: c(r, metadata=m)), health.history)  # type: ignore[misc]
    # A caller that does not name the history neither waits for a lost revision nor gets an answer from before.
    found = client_of_old_history.GetConfig(
        config_pb2.GetConfigRequest(key="k0", environment=ENV, min_revision=client_of_old_history.revision)
    )
    assert found.revision >= health.history_since


@pytest.mark.parametrize(
    ("method", "request_type", "fields"),
    [
        ("WatchConfigs", config_pb2.WatchConfigsRequest, {"environment": ENV}),
        ("WatchFlags", flag_pb2.WatchFlagsRequest, {"environment": ENV}),
        ("WatchService", registry_pb2.WatchServiceRequest, {"service_name": "s0"}),
    ],
)
def test_watch_resumes_only_in_its_own_history(
    client_of_old_history: Client, method: str, request_type: Any, fields: dict[str, str]
) -> None:
    current = client_of_old_history.health().history
    call = getattr(client_of_old_history, method)
    lost = request_type(**fields, after_revision=client_of_old_history.revision)
    said = request_type(**fields, after_revision=client_of_old_history.revision, history=client_of_old_history.history)
    assert is_of_another_history(refused(lambda: call(lost)), current)
    assert is_of_another_history(refused(lambda: call(said)), current)
    assert is_of_another_history(
        refused(lambda: call(lost, metadata=(("x-history", client_of_old_history.history),))), current
    )
    with ResponseStream(call(request_type(**fields))) as stream:
        synced = stream.take_until("synced")[-1].synced
    assert synced.history == current
    with ResponseStream(call(request_type(**fields, after_revision=synced.revision, history=synced.history))) as stream:
        assert stream.take_until("synced")[-1].synced == synced


def test_operator_chooses_the_leap_and_can_repeat_the_command(own_server: Callable[..., ServerProcess]) -> None:
    server = own_server()
    server.terminate()
    server.wait_for_exit()
    first = new_history(server, "--leap", "5").split()
    second = new_history(server, "--leap", "7").split()
    assert first[5] != second[5]
    assert int(second[-2]) - int(first[-2]) == 7
    with pytest.raises(subprocess.CalledProcessError) as refused:
        new_history(server, "--leap", "0")
    assert "must be 1 to 1,000,000,000,000; it is 0" in refused.value.stderr
