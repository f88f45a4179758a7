"""Data of other programs that the service meets: nodes that can't be read, and values too large for an event."""

import base64
import json
import secrets
from collections.abc import Callable, Sequence

import grpc
from configsvc_client.v1 import config_pb2
from google.protobuf.struct_pb2 import Value
from kazoo.client import KazooClient
from kazoo.exceptions import KazooException
from kazoo.handlers.threading import KazooTimeoutError

from tests.replicas.fleet import Replica

# One service with only malformed nodes, and the service that is watched.
SERVICES = ("foreign", "alive")
# No reader of instances can parse these.
MALFORMED: tuple[bytes, ...] = (
    b"",
    b"\xff\xfe",
    b"null",
    b"[1]",
    b"[" * 60_000,
    b'{"name":"foreign","id":"x","uriSpec":{"parts":[{"value":{"a":1},"variable":false}]}}',
    b'{"name":"foreign","id":"x","address":"\\ud800","port":80,"payload":{"k":"\\udfff"}}',
    b'{"name":"foreign","id":"x","address":7,"port":"x","sslPort":[]}',
    json.dumps({"name": "foreign", "id": "x", "payload": {"metadata": "x" * 900_000}}).encode(),
)
# Within the limit of a configuration and above the default limit of a topic, because it can't be compressed.
OVERSIZED_BYTES = 780_000
ANSWER_SECONDS = 5.0


class ForeignNodes:
    """Malformed nodes next to those of this service."""

    def __init__(self, hosts: str, base_path: str) -> None:
        self._hosts = hosts
        self._paths = [
            f"{base_path}/{service}/malformed-{number}" for service in SERVICES for number in range(len(MALFORMED))
        ]

    def show(self) -> None:
        """Creates the nodes. If ZooKeeper is down, nothing happens."""

        def make(client: KazooClient) -> None:
            for number, path in enumerate(self._paths):
                client.ensure_path(path)
                client.set(path, MALFORMED[number % len(MALFORMED)])

        self._do(make)

    def remove(self) -> None:
        """Removes the nodes that exist."""

        def remove(client: KazooClient) -> None:
            for path in self._paths:
                if client.exists(path):
                    client.delete(path)

        self._do(remove)

    def _do(self, work: Callable[[KazooClient], None]) -> None:
        client = KazooClient(self._hosts, timeout=ANSWER_SECONDS)
        try:
            client.start(timeout=ANSWER_SECONDS)
            work(client)
        except (KazooException, KazooTimeoutError):
            return
        finally:
            client.stop()
            client.close()


def write_oversized(replicas: Sequence[Replica]) -> None:
    """Writes values whose events exceed the default limit of a topic, to all replicas that answer."""
    for number, replica in enumerate(replicas):
        text = base64.b64encode(secrets.token_bytes(OVERSIZED_BYTES)).decode()
        request = config_pb2.UpdateConfigRequest(
            key=f"large-{number}", environment="large", value=Value(string_value=text), allow_missing=True
        )
        try:
            replica.configs.UpdateConfig(request, timeout=ANSWER_SECONDS)
        except grpc.RpcError:
            # Another fault is active; the value may exist or not.
            continue
