"""A lower limit never makes stored data unreadable: a service with lower limits opens the same file."""

from collections.abc import Callable
from typing import Any

from configsvc_client.v1 import config_pb2, flag_pb2, registry_pb2

from tests.rpc import reads
from tests.rpc.messages import put, value
from tests.rpc.reads import Stubs
from tests.rpc.refusals import refused
from tests.rpc.server_process import PATIENCE_SECONDS, ServerProcess

LOW = {
    "MAX_KEY_CHARACTERS": "3",
    "MAX_VALUE_BYTES": "2",
    "MAX_PAGE_SIZE": "1",
    "MAX_BATCH_SIZE": "1",
    "MAX_METADATA_ENTRIES": "0",
}


def test_data_above_a_lowered_limit_can_be_read_rolled_back_and_deleted(
    own_server: Callable[..., ServerProcess],
) -> None:
    before = own_server(SERVICE_REGISTRY_ENABLED="false")
    key, sent = "long/key/of/many/characters", value({"a": "long"})
    with before.channel() as channel:
        stubs = Stubs.of(channel)
        put(stubs.configs, "e", key, {"a": "older"})
        put(stubs.configs, "e", key, {"a": "long"})
        stubs.flags.CreateFlag(
            flag_pb2.CreateFlagRequest(name="f", environment="e", enabled=True, targeted_users=["a", "b"])
        )
        made = stubs.registry.RegisterInstance(
            registry_pb2.RegisterInstanceRequest(
                service_name="s", service_url="http://127.0.0.1:1", metadata={"a": "b"}, lease_ttl_seconds=3600
            )
        ).instance
    before.terminate()
    assert before.wait_for_exit() == 0
    after = own_server(**LOW, SERVICE_REGISTRY_ENABLED="false")
    with after.channel() as channel:
        stubs = Stubs.of(channel)
        found = reads.config_in_every_read(stubs, "e", key)
        assert [way for way, one in found.items() if one != sent] == []
        assert list(reads.flag_in_every_read(stubs, "e", "f")["get"].targeted_users) == ["a", "b"]
        assert reads.instance_in_every_read(stubs, "s", made.instance_id)["discover"].metadata == {"a": "b"}
        where: dict[str, Any] = {"key": key, "environment": "e"}
        back = config_pb2.RollbackConfigRequest(version=1, **where)
        assert stubs.configs.RollbackConfig(back, timeout=PATIENCE_SECONDS).config.value == value({"a": "older"})
        assert refused(lambda: put(stubs.configs, "e", key, {"a": "new"})).fields == ["key", "value"]
        stubs.configs.DeleteConfig(config_pb2.DeleteConfigRequest(**where))
