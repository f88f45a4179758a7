"""The KeepAlive stream: it keeps a lease, and its end makes the instance suspect."""

import queue
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from configsvc_client.v1 import change_pb2, change_pb2_grpc, registry_pb2, registry_pb2_grpc

from tests.rpc.refusals import refusal
from tests.rpc.response_stream import ResponseStream
from tests.rpc.server_process import ServerProcess, eventually

# The shortest TTL that a registration may have.
TTL_SECONDS = 5


@pytest.fixture(scope="module")
def settings() -> dict[str, str]:
    return {"SERVICE_REGISTRY_ENABLED": "false"}


class KeepAliveStream:
    """The stream of an instance. The test sends its messages."""

    def __init__(self, registry: Any, service: str, request_id: str = "") -> None:
        self._messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._service = service
        metadata = [("x-request-id", request_id)] if request_id else []
        self.stream = ResponseStream(registry.KeepAlive(iter(self._messages.get, None), metadata=metadata))

    def __enter__(self) -> "KeepAliveStream":
        return self

    def __exit__(self, *_: object) -> None:
        self._messages.put(None)
        self.stream.__exit__()

    def send(self, instance_id: str = "one") -> None:
        self._messages.put(registry_pb2.KeepAliveRequest(service_name=self._service, instance_id=instance_id))

    def renew(self) -> int:
        self.send()
        return int(self.stream.take().lease_ttl_seconds)

    def half_close(self) -> None:
        self._messages.put(None)


def register(registry: registry_pb2_grpc.RegistryServiceStub, service: str) -> None:
    registry.RegisterInstance(
        registry_pb2.RegisterInstanceRequest(
            service_name=service, instance_id="one", service_url="http://h:1", lease_ttl_seconds=TTL_SECONDS
        )
    )


def instances(registry: registry_pb2_grpc.RegistryServiceStub, service: str) -> dict[str, str]:
    """The status of each instance, by id."""
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


def test_each_message_renews_the_lease_and_returns_its_ttl(
    registry: registry_pb2_grpc.RegistryServiceStub, environment: str
) -> None:
    register(registry, environment)
    with KeepAliveStream(registry, environment) as keep_alive:
        assert keep_alive.renew() == TTL_SECONDS
        before = registry.GetService(registry_pb2.GetServiceRequest(service_name=environment)).instances[0]
        assert keep_alive.renew() == TTL_SECONDS
        after = registry.GetService(registry_pb2.GetServiceRequest(service_name=environment)).instances[0]
        assert after.last_heartbeat_at.ToNanoseconds() > before.last_heartbeat_at.ToNanoseconds()


@pytest.mark.parametrize("end", ["half-closed", "cancelled"])
def test_end_of_the_stream_makes_the_instance_suspect_and_then_expires_it(
    registry: registry_pb2_grpc.RegistryServiceStub, environment: str, end: str
) -> None:
    register(registry, environment)
    watch = registry.WatchService(registry_pb2.WatchServiceRequest(service_name=environment))
    with ResponseStream(watch) as watching, KeepAliveStream(registry, environment) as keep_alive:
        watching.take_until("synced")
        keep_alive.renew()
        assert discovered(registry, environment) == ["one"]
        keep_alive.half_close() if end == "half-closed" else keep_alive.stream.call.cancel()
        eventually(lambda: instances(registry, environment) == {"one": "SUSPECT"}, "it is suspect")
        assert discovered(registry, environment) == []
        eventually(lambda: not instances(registry, environment), "its lease runs out")
        changes = [watching.take_until("change")[-1].change for _ in range(2)]
        assert [(change.type, change.instance.status) for change in changes] == [("PUT", "SUSPECT"), ("DELETE", "")]


def test_suspect_instance_that_returns_is_healthy(
    registry: registry_pb2_grpc.RegistryServiceStub, environment: str
) -> None:
    register(registry, environment)
    with KeepAliveStream(registry, environment) as keep_alive:
        keep_alive.renew()
    eventually(lambda: instances(registry, environment) == {"one": "SUSPECT"}, "it is suspect")
    with KeepAliveStream(registry, environment) as keep_alive:
        keep_alive.renew()
        assert instances(registry, environment) == {"one": "HEALTHY"}


def test_late_end_of_an_old_stream_does_not_suspect_an_instance_with_a_new_one(
    registry: registry_pb2_grpc.RegistryServiceStub, server: ServerProcess, environment: str
) -> None:
    """A client that lost its network may reconnect before the server notices the end of the old connection."""
    register(registry, environment)
    old = KeepAliveStream(registry, environment, request_id=environment)
    old.renew()
    with KeepAliveStream(registry, environment) as new:
        new.renew()
        with old:
            old.stream.call.cancel()
        assert server.access_log(environment), "the old stream has ended"
        assert instances(registry, environment) == {"one": "HEALTHY"}
        assert new.renew() == TTL_SECONDS
    eventually(lambda: instances(registry, environment) == {"one": "SUSPECT"}, "the last one's end counts")


def test_deregistration_takes_effect_at_once(registry: registry_pb2_grpc.RegistryServiceStub, environment: str) -> None:
    register(registry, environment)
    with KeepAliveStream(registry, environment) as keep_alive:
        keep_alive.renew()
        registry.DeregisterInstance(registry_pb2.DeregisterInstanceRequest(service_name=environment, instance_id="one"))
        assert instances(registry, environment) == {}
        keep_alive.send()
        _, found = keep_alive.stream.end()
        assert found is not None
        assert (found.code, found.info.reason) == (grpc.StatusCode.NOT_FOUND, "INSTANCE_NOT_FOUND")
    assert instances(registry, environment) == {}, "the end of the stream restores nothing"


def test_second_instance_on_one_stream_is_refused(
    registry: registry_pb2_grpc.RegistryServiceStub, environment: str
) -> None:
    register(registry, environment)
    with KeepAliveStream(registry, environment) as keep_alive:
        keep_alive.renew()
        keep_alive.send("two")
        rest, found = keep_alive.stream.end()
    assert not rest
    assert found is not None
    assert (found.code, found.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["instance_id"])


def test_stream_without_messages_ends_well(registry: registry_pb2_grpc.RegistryServiceStub) -> None:
    assert list(registry.KeepAlive(iter(()))) == []


def test_stopping_server_ends_streams_at_once_and_suspects_no_instance(
    own_server: Callable[..., ServerProcess], environment: str
) -> None:
    """The instances are alive: they reconnect to another replica, or to this one after its restart."""
    server = own_server(SHUTDOWN_GRACE_SECONDS="60", SERVICE_REGISTRY_ENABLED="false")
    with server.channel() as channel:
        registry = registry_pb2_grpc.RegistryServiceStub(channel)
        register(registry, environment)
        with KeepAliveStream(registry, environment) as keep_alive, KeepAliveStream(registry, environment) as silent:
            keep_alive.renew()
            server.terminate()
            for stream in (keep_alive.stream, silent.stream):
                _, found = stream.end()
                assert found is not None
                assert (found.code, found.info.reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
            # Long before the end of the grace period.
            assert server.wait_for_exit() == 0
    server.start()
    server.wait_until_ready()
    with server.channel() as channel:
        registry = registry_pb2_grpc.RegistryServiceStub(channel)
        assert instances(registry, environment) == {"one": "HEALTHY"}
        changes = change_pb2_grpc.ChangeServiceStub(channel)
        trail = changes.ListChanges(change_pb2.ListChangesRequest(service_name=environment)).changes
        assert "STATUS" not in [change.action for change in trail]
