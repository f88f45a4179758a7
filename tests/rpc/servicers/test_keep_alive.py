"""The KeepAlive stream: a lease for as long as it is there, and what its end means."""

import queue
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from configsvc_client.v1 import change_pb2, change_pb2_grpc, registry_pb2, registry_pb2_grpc

from tests.rpc.refusals import refusal
from tests.rpc.response_stream import ResponseStream
from tests.rpc.server_process import ServerProcess, eventually

# The shortest that a registration may name.
TTL_SECONDS = 5


@pytest.fixture(scope="module")
def settings() -> dict[str, str]:
    return {"SERVICE_REGISTRY_ENABLED": "false"}


class KeepAliveStream:
    """An instance's stream, whose messages the test sends."""

    def __init__(self, registry: Any, service: str, request_id: str = "") -> None:
        self._said: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._service = service
        metadata = [("x-request-id", request_id)] if request_id else []
        self.stream = ResponseStream(registry.KeepAlive(iter(self._said.get, None), metadata=metadata))

    def __enter__(self) -> "KeepAliveStream":
        return self

    def __exit__(self, *_: object) -> None:
        self._said.put(None)
        self.stream.__exit__()

    def says(self, instance_id: str = "one") -> None:
        self._said.put(registry_pb2.KeepAliveRequest(service_name=self._service, instance_id=instance_id))

    def renewed(self) -> int:
        self.says()
        return int(self.stream.take().lease_ttl_seconds)

    def half_close(self) -> None:
        self._said.put(None)


def register(registry: registry_pb2_grpc.RegistryServiceStub, service: str) -> None:
    registry.RegisterInstance(
        registry_pb2.RegisterInstanceRequest(
            service_name=service, instance_id="one", service_url="http://h:1", lease_ttl_seconds=TTL_SECONDS
        )
    )


def instances(registry: registry_pb2_grpc.RegistryServiceStub, service: str) -> dict[str, str]:
    """The status of each, by id."""
    call: Any = registry.GetService
    try:
        answer = call(registry_pb2.GetServiceRequest(service_name=service))
    except grpc.RpcError as error:
        if refusal(error).code != grpc.StatusCode.NOT_FOUND:
            raise
        return {}
    return {instance.instance_id: instance.status for instance in answer.instances}


def discovered(registry: registry_pb2_grpc.RegistryServiceStub, service: str) -> list[str]:
    answer = registry.DiscoverInstances(registry_pb2.DiscoverInstancesRequest(service_name=service))
    return [instance.instance_id for instance in answer.instances]


def test_each_message_renews_the_lease_and_says_how_long_it_is(
    registry: registry_pb2_grpc.RegistryServiceStub, environment: str
) -> None:
    register(registry, environment)
    with KeepAliveStream(registry, environment) as kept:
        assert kept.renewed() == TTL_SECONDS
        before = registry.GetService(registry_pb2.GetServiceRequest(service_name=environment)).instances[0]
        assert kept.renewed() == TTL_SECONDS
        after = registry.GetService(registry_pb2.GetServiceRequest(service_name=environment)).instances[0]
        assert after.last_heartbeat_at.ToNanoseconds() > before.last_heartbeat_at.ToNanoseconds()


@pytest.mark.parametrize("end", ["half-closed", "cancelled"])
def test_the_streams_end_makes_the_instance_suspect_and_then_expires_it(
    registry: registry_pb2_grpc.RegistryServiceStub, environment: str, end: str
) -> None:
    register(registry, environment)
    watch = registry.WatchService(registry_pb2.WatchServiceRequest(service_name=environment))
    with ResponseStream(watch) as watching, KeepAliveStream(registry, environment) as kept:
        watching.take_until("synced")
        kept.renewed()
        assert discovered(registry, environment) == ["one"]
        kept.half_close() if end == "half-closed" else kept.stream.call.cancel()
        eventually(lambda: instances(registry, environment) == {"one": "SUSPECT"}, "it is suspect")
        assert discovered(registry, environment) == []
        eventually(lambda: not instances(registry, environment), "its lease runs out")
        changes = [watching.take_until("change")[-1].change for _ in range(2)]
        assert [(change.type, change.instance.status) for change in changes] == [("PUT", "SUSPECT"), ("DELETE", "")]


def test_a_suspect_instance_that_comes_back_is_healthy_again(
    registry: registry_pb2_grpc.RegistryServiceStub, environment: str
) -> None:
    register(registry, environment)
    with KeepAliveStream(registry, environment) as kept:
        kept.renewed()
    eventually(lambda: instances(registry, environment) == {"one": "SUSPECT"}, "it is suspect")
    with KeepAliveStream(registry, environment) as kept:
        kept.renewed()
        assert instances(registry, environment) == {"one": "HEALTHY"}


def test_an_old_stream_that_ends_late_harms_no_instance_that_has_a_new_one(
    registry: registry_pb2_grpc.RegistryServiceStub, server: ServerProcess, environment: str
) -> None:
    """A client that lost its network is back before the server notices that the old connection is gone."""
    register(registry, environment)
    old = KeepAliveStream(registry, environment, request_id=environment)
    old.renewed()
    with KeepAliveStream(registry, environment) as new:
        new.renewed()
        with old:
            old.stream.call.cancel()
        assert server.access_log(environment), "the old stream has ended"
        assert instances(registry, environment) == {"one": "HEALTHY"}
        assert new.renewed() == TTL_SECONDS
    eventually(lambda: instances(registry, environment) == {"one": "SUSPECT"}, "the last one's end counts")


def test_an_explicit_deregistration_is_at_once(
    registry: registry_pb2_grpc.RegistryServiceStub, environment: str
) -> None:
    register(registry, environment)
    with KeepAliveStream(registry, environment) as kept:
        kept.renewed()
        registry.DeregisterInstance(registry_pb2.DeregisterInstanceRequest(service_name=environment, instance_id="one"))
        assert instances(registry, environment) == {}
        kept.says()
        _, found = kept.stream.end()
        assert found is not None
        assert (found.code, found.info.reason) == (grpc.StatusCode.NOT_FOUND, "INSTANCE_NOT_FOUND")
    assert instances(registry, environment) == {}, "the stream's end brings nothing back"


def test_another_instance_on_the_same_stream_is_refused(
    registry: registry_pb2_grpc.RegistryServiceStub, environment: str
) -> None:
    register(registry, environment)
    with KeepAliveStream(registry, environment) as kept:
        kept.renewed()
        kept.says("two")
        rest, found = kept.stream.end()
    assert not rest
    assert found is not None
    assert (found.code, found.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["instance_id"])


def test_a_stream_that_says_nothing_ends_well(registry: registry_pb2_grpc.RegistryServiceStub) -> None:
    assert list(registry.KeepAlive(iter(()))) == []


def test_a_server_that_stops_ends_the_streams_at_once_and_suspects_nobody(
    own_server: Callable[..., ServerProcess], environment: str
) -> None:
    """The instance lives; it goes on at another replica, or here after the restart."""
    server = own_server(SHUTDOWN_GRACE_SECONDS="60", SERVICE_REGISTRY_ENABLED="false")
    with server.channel() as channel:
        registry = registry_pb2_grpc.RegistryServiceStub(channel)
        register(registry, environment)
        with KeepAliveStream(registry, environment) as kept, KeepAliveStream(registry, environment) as silent:
            kept.renewed()
            server.terminate()
            for stream in (kept.stream, silent.stream):
                _, found = stream.end()
                assert found is not None
                assert (found.code, found.info.reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
            # Long before the grace has passed.
            assert server.wait_for_exit() == 0
    server.start()
    server.wait_until_ready()
    with server.channel() as channel:
        registry = registry_pb2_grpc.RegistryServiceStub(channel)
        assert instances(registry, environment) == {"one": "HEALTHY"}
        changes = change_pb2_grpc.ChangeServiceStub(channel)
        trail = changes.ListChanges(change_pb2.ListChangesRequest(service_name=environment)).changes
        assert "STATUS" not in [change.action for change in trail]
