"""The servers of a comparison: what h2load sends to them, and what their watchers receive.

etcd's four messages are encoded by hand. Their fields have not changed since etcd 3.0, and this is less than a copy of
its protos. Watchers on both sides receive bytes, and no client decodes them.
"""

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
import httpx
from configsvc_client.v1 import config_pb2
from google.protobuf.struct_pb2 import Value

from benchmarks.load import PREFIX, Request, grpc_request

KEY, ENVIRONMENT = "app/limits", "bench"
VALUE_CHARACTERS = 500
VALUE = "v" * VALUE_CHARACTERS
CALL_SECONDS = 10

_GET, _UPDATE = "/configsvc.v1.ConfigService/GetConfig", "/configsvc.v1.ConfigService/UpdateConfig"
_WATCH = "/configsvc.v1.ConfigService/WatchConfigs"
_RANGE, _PUT, _ETCD_WATCH = "/etcdserverpb.KV/Range", "/etcdserverpb.KV/Put", "/etcdserverpb.Watch/Watch"


@dataclass(frozen=True, slots=True)
class Watch:
    """How to watch the key: a call, its request, and the meaning of its messages.

    `opens`: whether changes follow this message. `changes`: whether this message is a change.
    """

    method: str
    request: bytes
    bidirectional: bool
    opens: Callable[[bytes], bool]
    changes: Callable[[bytes], bool]


@dataclass(frozen=True, slots=True)
class Target:
    """One server as its clients see it.

    `answer_bytes`: the size of one read now. `version`: how often the key has been written.
    """

    name: str
    read: Request
    write: Request
    answer_bytes: Callable[[], int]
    version: Callable[[], int]

    def read_check(self) -> Callable[[int, int], bool]:
        """Checks that every answer was the whole value."""
        each = self.answer_bytes()
        return lambda count, data: data == count * each

    def write_check(self) -> Callable[[int, int], bool]:
        """Checks that every write was done once."""
        before = self.version()
        return lambda count, _data: self.version() == before + count


def configsvc_grpc(name: str, address: str) -> Target:
    """This service, called directly."""
    get = config_pb2.GetConfigRequest(key=KEY, environment=ENVIRONMENT).SerializeToString()
    return Target(
        name=name,
        read=grpc_request(address, _GET, get),
        write=grpc_request(address, _UPDATE, configsvc_write()),
        answer_bytes=lambda: PREFIX.size + len(unary(address, _GET, get)),
        version=lambda: _configsvc_version(address, get),
    )


def configsvc_rest(name: str, gateway: str, address: str) -> Target:
    """This service through Envoy."""
    get = config_pb2.GetConfigRequest(key=KEY, environment=ENVIRONMENT).SerializeToString()
    url = f"http://{gateway}/api/v1/config/{KEY}?environment={ENVIRONMENT}"
    body = json.dumps({"value": VALUE, "allow_missing": True}).encode()
    put = {":method": "PUT", "content-type": "application/json"}
    return Target(
        name=name,
        read=Request(url, http1=True),
        write=Request(url, body, put, http1=True),
        answer_bytes=lambda: len(httpx.get(url).raise_for_status().content),
        version=lambda: _configsvc_version(address, get),
    )


def configsvc_write() -> bytes:
    """The write for all targets of this service."""
    return config_pb2.UpdateConfigRequest(
        key=KEY, environment=ENVIRONMENT, value=Value(string_value=VALUE), allow_missing=True
    ).SerializeToString()


def configsvc_watch() -> Watch:
    """A watch on the key, which receives the state of the key first."""
    response = config_pb2.WatchConfigsResponse
    return Watch(
        method=_WATCH,
        request=config_pb2.WatchConfigsRequest(environment=ENVIRONMENT, keys=[KEY]).SerializeToString(),
        bidirectional=False,
        opens=lambda data: response.FromString(data).HasField("synced"),
        changes=lambda data: response.FromString(data).HasField("change"),
    )


def etcd_grpc(name: str, address: str, *, serializable: bool = False) -> Target:
    """etcd. The default read is linearizable; a `serializable` one may be outdated, like a read from our memory."""
    read = _bytes(1, KEY.encode()) + (b"\x38\x01" if serializable else b"")
    return Target(
        name=name,
        read=grpc_request(address, _RANGE, read),
        write=grpc_request(address, _PUT, etcd_write()),
        answer_bytes=lambda: PREFIX.size + len(unary(address, _RANGE, read)),
        version=lambda: _etcd_version(address),
    )


def etcd_rest(name: str, address: str) -> Target:
    """etcd's own JSON gateway."""
    key, value = base64.b64encode(KEY.encode()).decode(), base64.b64encode(VALUE.encode()).decode()
    url, sent = f"http://{address}/v3/kv", {"content-type": "application/json"}
    body = json.dumps({"key": key}).encode()
    return Target(
        name=name,
        read=Request(f"{url}/range", body, sent, http1=True),
        write=Request(f"{url}/put", json.dumps({"key": key, "value": value}).encode(), sent, http1=True),
        answer_bytes=lambda: len(httpx.post(f"{url}/range", content=body).raise_for_status().content),
        version=lambda: _etcd_version(address),
    )


def etcd_write() -> bytes:
    """PutRequest {key = 1, value = 2}."""
    return _bytes(1, KEY.encode()) + _bytes(2, VALUE.encode())


def etcd_watch() -> Watch:
    """WatchRequest {create_request = 1 {key = 1}}; WatchResponse has created = 3 once, then events = 11."""
    return Watch(
        method=_ETCD_WATCH,
        request=_bytes(1, _bytes(1, KEY.encode())),
        bidirectional=True,
        opens=lambda data: _EVENTS not in data,
        changes=lambda data: _EVENTS in data,
    )


def update_method(watch: Watch) -> str:
    """The write that a watch receives."""
    return _PUT if watch.bidirectional else _UPDATE


def unary(address: str, method: str, message: bytes) -> bytes:
    """Makes one call with encoded messages."""
    with grpc.insecure_channel(address) as channel:
        call: Any = channel.unary_unary(method)
        answer: bytes = call(message, timeout=CALL_SECONDS)
    return answer


def _configsvc_version(address: str, get: bytes) -> int:
    try:
        response = config_pb2.GetConfigResponse.FromString(unary(address, _GET, get))
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.NOT_FOUND:
            return 0
        raise
    return response.config.version


def _etcd_version(address: str) -> int:
    key = base64.b64encode(KEY.encode()).decode()
    answer = httpx.post(f"http://{address}/v3/kv/range", json={"key": key}).raise_for_status().json()
    return sum(int(row["version"]) for row in answer.get("kvs", ()))


def _bytes(field: int, value: bytes) -> bytes:
    """A length-delimited field. Lengths are below 2^14 here."""
    size = len(value)
    length = bytes([size]) if size < 0x80 else bytes([size & 0x7F | 0x80, size >> 7])
    return bytes([field << 3 | 2]) + length + value


# The tag of `events`, and the key that only an event has after it.
_EVENTS = _bytes(1, KEY.encode())
