"""Every way in which gRPC shows a resource, by the name of the way. A test compares what each of them says.

The watches are opened before the write (live) and after it (snapshot, resumed at the revision before it).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from configsvc_client.v1 import (
    change_pb2,
    change_pb2_grpc,
    config_pb2,
    config_pb2_grpc,
    flag_pb2,
    flag_pb2_grpc,
    registry_pb2,
    registry_pb2_grpc,
)

from tests.rpc.response_stream import ResponseStream
from tests.rpc.server_process import PATIENCE_SECONDS


@dataclass(frozen=True)
class Stubs:
    """All services, through one channel."""

    configs: Any
    flags: Any
    registry: Any
    changes: Any

    @classmethod
    def of(cls, channel: grpc.Channel) -> "Stubs":
        return cls(
            config_pb2_grpc.ConfigServiceStub(channel),
            flag_pb2_grpc.FlagServiceStub(channel),
            registry_pb2_grpc.RegistryServiceStub(channel),
            change_pb2_grpc.ChangeServiceStub(channel),
        )


def everything(call: Any, request: Any, field: str) -> list[Any]:
    """All items of a list, page by page."""
    found: list[Any] = []
    while True:
        answer = call(request, timeout=PATIENCE_SECONDS)
        found += getattr(answer, field)
        if not answer.next_page_token:
            return found
        request.page_token = answer.next_page_token


@contextmanager
def watched(call: Any, request: Any) -> Iterator[ResponseStream]:
    """A watch whose opening is read to its end."""
    with ResponseStream(call(request)) as stream:
        stream.opening = stream.take_until("synced")  # type: ignore[attr-defined]
        yield stream


def next_change(stream: ResponseStream) -> Any:
    """The next change that a watch tells."""
    return stream.take_until("change")[-1].change


def snapshot(call: Any, request: Any, field: str) -> list[Any]:
    """What a watch shows at its opening."""
    with watched(call, request) as stream:
        opening: list[Any] = stream.opening  # type: ignore[attr-defined]
        return [item for message in opening for item in getattr(message.snapshot, field)]


def resumed(call: Any, request: Any, after: int) -> Any:
    """The first change that a watch tells which resumes after a revision."""
    request.after_revision = after
    with ResponseStream(call(request)) as stream:
        return next_change(stream)


def configs(stubs: Stubs, environment: str, key: str, service: str = "") -> dict[str, Any]:
    """The values that a configuration has in each way of reading it. Its newest change is a write of it alone."""
    where: dict[str, Any] = {"environment": environment, "service_name": service}
    asked = config_pb2.GetConfigRequest(key=key, **where)
    got = stubs.configs.GetConfig(asked, timeout=PATIENCE_SECONDS)
    listed = everything(stubs.configs.ListConfigs, config_pb2.ListConfigsRequest(**where, prefix=key), "configs")
    effective = everything(
        stubs.configs.GetEffectiveConfig,
        config_pb2.GetEffectiveConfigRequest(environment=environment, service_name=service or "any"),
        "configs",
    )
    bulk = stubs.configs.BulkGetConfigs(config_pb2.BulkGetConfigsRequest(keys=[key], **where), timeout=PATIENCE_SECONDS)
    newest = stubs.configs.ListConfigHistory(config_pb2.ListConfigHistoryRequest(key=key, page_size=1, **where))
    trail = stubs.changes.ListChanges(change_pb2.ListChangesRequest(kind="config", key=key, page_size=1, **where))
    diff = stubs.configs.DiffConfig(
        config_pb2.DiffConfigRequest(key=key, from_version=got.config.version, **where), timeout=PATIENCE_SECONDS
    )
    watch = config_pb2.WatchConfigsRequest(keys=[key], **where)
    return {
        "get": got.config.value,
        "list": _named(listed, key).value,
        "effective": _named(effective, key).value,
        "bulk": _named(bulk.configs, key).value,
        "history": newest.versions[0].after,
        "changes": trail.changes[0].after.fields["value"],
        "diff": getattr(diff, "from").after,
        "snapshot": _named(snapshot(stubs.configs.WatchConfigs, watch, "configs"), key).value,
        "resumed": resumed(stubs.configs.WatchConfigs, watch, got.config.revision - 1).config.value,
    }


def flags(stubs: Stubs, environment: str, name: str) -> dict[str, Any]:
    """The flag as each way of reading shows it. Its newest change is a write of it alone."""
    got = stubs.flags.GetFlag(flag_pb2.GetFlagRequest(name=name, environment=environment)).flag
    listed = everything(stubs.flags.ListFlags, flag_pb2.ListFlagsRequest(environment=environment), "flags")
    history = flag_pb2.ListFlagHistoryRequest(name=name, environment=environment, page_size=1)
    watch = flag_pb2.WatchFlagsRequest(environment=environment, names=[name])
    return {
        "get": got,
        "list": next(flag for flag in listed if flag.name == name),
        "history": stubs.flags.ListFlagHistory(history).versions[0].after,
        "snapshot": snapshot(stubs.flags.WatchFlags, watch, "flags")[0],
        "resumed": resumed(stubs.flags.WatchFlags, watch, got.revision - 1).flag,
    }


def instances(stubs: Stubs, service: str, instance_id: str) -> dict[str, Any]:
    """The instance as each way of reading shows it, while it is healthy."""
    watch = registry_pb2.WatchServiceRequest(service_name=service)
    beat = registry_pb2.HeartbeatRequest(service_name=service, instance_id=instance_id)
    found = {
        "heartbeat": [stubs.registry.Heartbeat(beat).instance],
        "service": stubs.registry.GetService(registry_pb2.GetServiceRequest(service_name=service)).instances,
        "discover": stubs.registry.DiscoverInstances(
            registry_pb2.DiscoverInstancesRequest(service_name=service)
        ).instances,
        "snapshot": snapshot(stubs.registry.WatchService, watch, "instances"),
    }
    shown = {way: next(i for i in all_of_it if i.instance_id == instance_id) for way, all_of_it in found.items()}
    shown["resumed"] = resumed(stubs.registry.WatchService, watch, shown["service"].revision - 1).instance
    return shown


def _named(items: Any, key: str) -> Any:
    return next(item for item in items if item.key == key)
