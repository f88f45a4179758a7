"""All gRPC reads of a resource, by the name of the read, for tests that compare them.

A test opens a live watch before the write. The reads here have two more watches, opened after the write: one from its
snapshot, one resumed at the revision before it.
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
    """The stubs of all services on one channel."""

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


def list_all(call: Any, request: Any, field: str) -> list[Any]:
    """All items of a list, page by page."""
    items: list[Any] = []
    while True:
        page = call(request, timeout=PATIENCE_SECONDS)
        items += getattr(page, field)
        if not page.next_page_token:
            return items
        request.page_token = page.next_page_token


@contextmanager
def synced_watch(call: Any, request: Any) -> Iterator[ResponseStream]:
    """A watch that is synced: its snapshot has been read."""
    with ResponseStream(call(request)) as stream:
        stream.take_until("synced")
        yield stream


def next_change(stream: ResponseStream) -> Any:
    """The next change of a watch."""
    return stream.take_until("change")[-1].change


def read_snapshot(call: Any, request: Any, field: str) -> list[Any]:
    """All items in the snapshot of a watch."""
    with ResponseStream(call(request)) as stream:
        return [item for message in stream.take_until("synced") for item in getattr(message.snapshot, field)]


def first_change_after(call: Any, request: Any, after: int) -> Any:
    """The first change of a watch that resumes after a revision."""
    request.after_revision = after
    with ResponseStream(call(request)) as stream:
        return next_change(stream)


def config_in_every_read(stubs: Stubs, environment: str, key: str, service: str = "") -> dict[str, Any]:
    """The value of a configuration in every read. Its newest change must not be part of a batch."""
    scope: dict[str, Any] = {"environment": environment, "service_name": service}
    request = config_pb2.GetConfigRequest(key=key, **scope)
    got = stubs.configs.GetConfig(request, timeout=PATIENCE_SECONDS)
    listed = list_all(stubs.configs.ListConfigs, config_pb2.ListConfigsRequest(**scope, prefix=key), "configs")
    effective = list_all(
        stubs.configs.GetEffectiveConfig,
        config_pb2.GetEffectiveConfigRequest(environment=environment, service_name=service or "any"),
        "configs",
    )
    bulk = stubs.configs.BulkGetConfigs(config_pb2.BulkGetConfigsRequest(keys=[key], **scope), timeout=PATIENCE_SECONDS)
    newest = stubs.configs.ListConfigHistory(config_pb2.ListConfigHistoryRequest(key=key, page_size=1, **scope))
    trail = stubs.changes.ListChanges(change_pb2.ListChangesRequest(kind="config", key=key, page_size=1, **scope))
    diff = stubs.configs.DiffConfig(
        config_pb2.DiffConfigRequest(key=key, from_version=got.config.version, **scope), timeout=PATIENCE_SECONDS
    )
    watch = config_pb2.WatchConfigsRequest(keys=[key], **scope)
    return {
        "get": got.config.value,
        "list": _named(listed, key).value,
        "effective": _named(effective, key).value,
        "bulk": _named(bulk.configs, key).value,
        "history": newest.versions[0].after,
        "changes": trail.changes[0].after.fields["value"],
        "diff": getattr(diff, "from").after,
        "snapshot": _named(read_snapshot(stubs.configs.WatchConfigs, watch, "configs"), key).value,
        "resumed": first_change_after(stubs.configs.WatchConfigs, watch, got.config.revision - 1).config.value,
    }


def flag_in_every_read(stubs: Stubs, environment: str, name: str) -> dict[str, Any]:
    """The flag in every read. Its newest change must not be part of a batch."""
    got = stubs.flags.GetFlag(flag_pb2.GetFlagRequest(name=name, environment=environment)).flag
    listed = list_all(stubs.flags.ListFlags, flag_pb2.ListFlagsRequest(environment=environment), "flags")
    history = flag_pb2.ListFlagHistoryRequest(name=name, environment=environment, page_size=1)
    watch = flag_pb2.WatchFlagsRequest(environment=environment, names=[name])
    return {
        "get": got,
        "list": next(flag for flag in listed if flag.name == name),
        "history": stubs.flags.ListFlagHistory(history).versions[0].after,
        "snapshot": read_snapshot(stubs.flags.WatchFlags, watch, "flags")[0],
        "resumed": first_change_after(stubs.flags.WatchFlags, watch, got.revision - 1).flag,
    }


def instance_in_every_read(stubs: Stubs, service: str, instance_id: str) -> dict[str, Any]:
    """A healthy instance in every read."""
    watch = registry_pb2.WatchServiceRequest(service_name=service)
    beat = registry_pb2.HeartbeatRequest(service_name=service, instance_id=instance_id)
    lists = {
        "heartbeat": [stubs.registry.Heartbeat(beat).instance],
        "service": stubs.registry.GetService(registry_pb2.GetServiceRequest(service_name=service)).instances,
        "discover": stubs.registry.DiscoverInstances(
            registry_pb2.DiscoverInstancesRequest(service_name=service)
        ).instances,
        "snapshot": read_snapshot(stubs.registry.WatchService, watch, "instances"),
    }
    found = {read: next(i for i in items if i.instance_id == instance_id) for read, items in lists.items()}
    found["resumed"] = first_change_after(stubs.registry.WatchService, watch, found["service"].revision - 1).instance
    return found


def _named(items: Any, key: str) -> Any:
    return next(item for item in items if item.key == key)
