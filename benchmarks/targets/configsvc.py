"""This service: its operations, and the resources that they need."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from configsvc_client.v1 import config_pb2, flag_pb2, registry_pb2
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Value

from benchmarks.load import Request, Target, Watch

ENVIRONMENT, KEY, FLAG, SERVICE = "bench", "app/limits", "rollout", "payments"
TARGETED = ("alice", "bob")
# Attributes of the users that no rule matches.
ATTRIBUTES = {"country": "fr", "plan": "free"}
VALUE_CHARACTERS = 500
VALUE = "v" * VALUE_CHARACTERS
# So many keys, flags and instances exist.
KEYS, FLAGS, INSTANCES, USERS = 100, 1_000, 10, 100
# A lease longer than the run.
LEASE_SECONDS = 86_400
CALL_SECONDS = 30
# Fewer than a worker lets wait.
TOGETHER = 200

_CONFIGS = "/configsvc.v1.ConfigService/"
_FLAGS = "/configsvc.v1.FlagService/"
_REGISTRY = "/configsvc.v1.RegistryService/"
_JSON = {"content-type": "application/json"}


@dataclass(frozen=True, slots=True)
class Operation:
    """A call, as messages for gRPC and as requests for REST."""

    method: str
    messages: Sequence[Message]
    rest: Sequence[Request]

    def grpc(self, address: str, *, check: bool = True) -> Target:
        """The calls, each with the length of its answer now. `check`: whether answers always have that length."""
        with grpc.insecure_channel(address) as channel:
            call: Any = channel.unary_unary(self.method)
            requests = [_encoded(self.method, message, call if check else None) for message in self.messages]
        return Target(address, requests)

    def by_rest(self, address: str) -> Target:
        """The calls through the gateway."""
        return Target(address, self.rest, http=True)


def _encoded(method: str, message: Message, call: Any) -> Request:
    body = message.SerializeToString()
    return Request(method, body, expect=len(call(body, timeout=CALL_SECONDS)) if call else -1)


def key(number: int) -> str:
    """The key of a configuration, 0 to `KEYS` - 1."""
    return f"app/key-{number:05}"


def flag(number: int) -> str:
    """The name of a flag, 0 to `FLAGS` - 1."""
    return f"{FLAG}-{number:05}"


def user(number: int) -> str:
    """A user, of whom a quarter has a flag."""
    return f"user-{number}"


def get_config() -> Operation:
    """One value of 500 characters."""
    get = config_pb2.GetConfigRequest(key=KEY, environment=ENVIRONMENT)
    url = Request(f"/api/v1/config/{KEY}?environment={ENVIRONMENT}", method="GET")
    return Operation(f"{_CONFIGS}GetConfig", [get], [url])


def bulk_get(count: int = KEYS) -> Operation:
    """Values of many keys, each of 500 characters."""
    message = config_pb2.BulkGetConfigsRequest(environment=ENVIRONMENT, keys=map(key, range(count)))
    return Operation(f"{_CONFIGS}BulkGetConfigs", [message], [_post("/api/v1/config/bulk", message)])


def update_config() -> Operation:
    """Writes one key."""
    message = config_pb2.UpdateConfigRequest(
        key=KEY, environment=ENVIRONMENT, value=Value(string_value=VALUE), allow_missing=True
    )
    body = b'{"value": "%s", "allow_missing": true}' % VALUE.encode()
    put = Request(f"/api/v1/config/{KEY}?environment={ENVIRONMENT}", body, "PUT", _JSON)
    return Operation(f"{_CONFIGS}UpdateConfig", [message], [put])


def evaluate_flag() -> Operation:
    """One flag for many users in turn."""
    messages = [
        flag_pb2.EvaluateFlagRequest(flag_name=FLAG, environment=ENVIRONMENT, user_id=user(number))
        for number in range(USERS)
    ]
    for message in messages:
        message.attributes.update(ATTRIBUTES)
    requests = [_post("/api/v1/feature-flags/evaluate", message) for message in messages]
    return Operation(f"{_FLAGS}EvaluateFlag", messages, requests)


def batch_evaluate(count: int) -> Operation:
    """Many flags for one user, and the next user in the next call."""
    messages = [
        flag_pb2.BatchEvaluateFlagsRequest(
            flag_names=map(flag, range(count)), environment=ENVIRONMENT, user_id=user(number)
        )
        for number in range(10)
    ]
    for message in messages:
        message.attributes.update(ATTRIBUTES)
    requests = [_post("/api/v1/feature-flags/evaluate/batch", message) for message in messages]
    return Operation(f"{_FLAGS}BatchEvaluateFlags", messages, requests)


def discover(service: str = SERVICE) -> Operation:
    """The ten instances of one service."""
    message = registry_pb2.DiscoverInstancesRequest(service_name=service)
    url = Request(f"/api/v1/registry/discover/{service}", method="GET")
    return Operation(f"{_REGISTRY}DiscoverInstances", [message], [url])


def register() -> Operation:
    """A new instance with each call: the service makes its id."""
    message = registry_pb2.RegisterInstanceRequest(
        service_name="registered", service_url="http://127.0.0.1:9/", lease_ttl_seconds=LEASE_SECONDS
    )
    return Operation(f"{_REGISTRY}RegisterInstance", [message], [_post("/api/v1/registry/register", message)])


def heartbeat(service: str, instance_ids: Sequence[str]) -> Operation:
    """The instances of one service, in turn."""
    messages = [registry_pb2.HeartbeatRequest(service_name=service, instance_id=each) for each in instance_ids]
    requests = [_post("/api/v1/registry/heartbeat", message) for message in messages]
    return Operation(f"{_REGISTRY}Heartbeat", messages, requests)


def watch() -> Watch:
    """A watch on the key, which receives the state of the key first."""
    message = config_pb2.WatchConfigsRequest(environment=ENVIRONMENT, keys=[KEY])
    fields = config_pb2.WatchConfigsResponse.DESCRIPTOR.fields_by_name
    return Watch(
        f"{_CONFIGS}WatchConfigs",
        message.SerializeToString(),
        opens=fields["synced"].number,
        changes=fields["change"].number,
    )


def flag_definition(name: str) -> dict[str, Any]:
    """Two targeted users, then 25 %."""
    return {
        **{"name": name, "environment": ENVIRONMENT, "enabled": True, "rollout_percentage": 25},
        "targeted_users": list(TARGETED),
    }


def fill(address: str, *, keys: int = KEYS, flags: int = 0, instances: int = 0) -> None:
    """Creates what the operations need."""
    with grpc.insecure_channel(address) as channel:

        def call(method: str, messages: Sequence[Message]) -> None:
            start: Any = channel.unary_unary(method, request_serializer=lambda m: m.SerializeToString())
            # Many together, so that they share transactions.
            for first in range(0, len(messages), TOGETHER):
                for pending in [
                    start.future(each, timeout=CALL_SECONDS) for each in messages[first : first + TOGETHER]
                ]:
                    pending.result()

        configs = [_config(name) for name in (KEY, *map(key, range(keys)))]
        call(f"{_CONFIGS}UpdateConfig", configs)
        names = ([FLAG] if flags else []) + [flag(number) for number in range(flags)]
        call(f"{_FLAGS}CreateFlag", [flag_pb2.CreateFlagRequest(**flag_definition(name)) for name in names])
        call(f"{_REGISTRY}RegisterInstance", [_registration(number) for number in range(instances)])


def version(address: str) -> int:
    """How often the key has been written."""
    get = get_config()
    with grpc.insecure_channel(address) as channel:
        call: Any = channel.unary_unary(get.method, response_deserializer=config_pb2.GetConfigResponse.FromString)
        answer: config_pb2.GetConfigResponse = call(get.messages[0].SerializeToString(), timeout=CALL_SECONDS)
    return answer.config.version


def _config(name: str) -> config_pb2.UpdateConfigRequest:
    value = Value(string_value=VALUE)
    return config_pb2.UpdateConfigRequest(key=name, environment=ENVIRONMENT, value=value, allow_missing=True)


def _registration(number: int) -> registry_pb2.RegisterInstanceRequest:
    return registry_pb2.RegisterInstanceRequest(
        service_name=SERVICE,
        instance_id=f"instance-{number}",
        service_url=f"http://127.0.0.1:9/{number}",
        lease_ttl_seconds=LEASE_SECONDS,
    )


def _post(path: str, message: Message) -> Request:
    body = MessageToJson(message, preserving_proto_field_name=True, indent=None).encode()
    return Request(path, body, "POST", _JSON)
