"""etcd.

Its messages are encoded by hand. Their fields have not changed since etcd 3.0, and this is less than a copy of its
protos.
"""

import base64
import json
from collections.abc import Sequence
from typing import Any

import grpc
import httpx

from benchmarks.load import Request, Target, Watch
from benchmarks.targets.configsvc import CALL_SECONDS, KEY, KEYS, VALUE, key

_RANGE, _PUT, _WATCH = "/etcdserverpb.KV/Range", "/etcdserverpb.KV/Put", "/etcdserverpb.Watch/Watch"
_JSON = {"content-type": "application/json"}
# The fields of a WatchResponse: `created`, `events`.
_CREATED, _EVENTS = 3, 11


def get(address: str, *, serializable: bool = False) -> Target:
    """One value. The default read is linearizable; a `serializable` one may be outdated, like a read from our memory."""
    return Target(address, [_checked(address, _RANGE, _bytes(1, KEY.encode()) + _serializable(serializable))])


def bulk_get(address: str, *, serializable: bool = False) -> Target:
    """Values of many keys."""
    first, end = key(0).encode(), key(KEYS).encode()
    return Target(address, [_checked(address, _RANGE, _bytes(1, first) + _bytes(2, end) + _serializable(serializable))])


def put(address: str) -> Target:
    """Writes one key."""
    return Target(address, [Request(_PUT, _put(KEY))])


def rest_get(address: str, *, serializable: bool = False) -> Target:
    """One value by etcd's own JSON gateway."""
    body = json.dumps({"key": _base64(KEY), **({"serializable": True} if serializable else {})}).encode()
    expect = len(httpx.post(f"http://{address}/v3/kv/range", content=body).raise_for_status().content)
    return Target(address, [Request("/v3/kv/range", body, headers=_JSON, expect=expect)], http=True)


def rest_put(address: str) -> Target:
    """Writes one key by etcd's own JSON gateway."""
    body = json.dumps({"key": _base64(KEY), "value": _base64(VALUE)}).encode()
    return Target(address, [Request("/v3/kv/put", body, headers=_JSON)], http=True)


def watch() -> Watch:
    """WatchRequest {create_request = 1 {key = 1}}. etcd would end the watch if the stream were half-closed."""
    return Watch(_WATCH, _bytes(1, _bytes(1, KEY.encode())), opens=_CREATED, changes=_EVENTS, half_open=True)


def fill(address: str, keys: int = KEYS) -> None:
    """Puts the key, and many others."""
    with grpc.insecure_channel(address) as channel:
        start: Any = channel.unary_unary(_PUT)
        names: Sequence[str] = (KEY, *map(key, range(keys)))
        for pending in [start.future(_put(name), timeout=CALL_SECONDS) for name in names]:
            pending.result()


def read_all(address: str) -> None:
    """Reads every key in one call."""
    httpx.post(f"http://{address}/v3/kv/range", json={"key": "AA==", "range_end": "AA=="}).raise_for_status()


def version(address: str) -> int:
    """How often the key has been written."""
    answer = httpx.post(f"http://{address}/v3/kv/range", json={"key": _base64(KEY)}).raise_for_status().json()
    return sum(int(row["version"]) for row in answer.get("kvs", ()))


def _checked(address: str, method: str, body: bytes) -> Request:
    with grpc.insecure_channel(address) as channel:
        call: Any = channel.unary_unary(method)
        return Request(method, body, expect=len(call(body, timeout=CALL_SECONDS)))


def _put(name: str) -> bytes:
    """PutRequest {key = 1, value = 2}."""
    return _bytes(1, name.encode()) + _bytes(2, VALUE.encode())


def _serializable(is_serializable: bool) -> bytes:
    """RangeRequest.serializable = 7."""
    return b"\x38\x01" if is_serializable else b""


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _bytes(field: int, value: bytes) -> bytes:
    """A length-delimited field. Lengths are below 2^14 here."""
    size = len(value)
    length = bytes([size]) if size < 0x80 else bytes([size & 0x7F | 0x80, size >> 7])
    return bytes([field << 3 | 2]) + length + value
