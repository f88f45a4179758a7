"""What strangers put where this service looks: nodes that can't be read, and values too large for an event."""

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

# In a service of their own and in the one that is watched.
SERVICES = ("foreign", "alive")
# Not what any reader of instances can read.
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
# Within what a configuration may have, and above what a topic takes by default, since it can't be compressed.
OVERSIZED_BYTES = 780_000
ANSWER_SECONDS = 5.0


class ForeignNodes:
    """Malformed nodes beside those of this service, while they are shown."""

    def __init__(self, hosts: str, base_path: str) -> None:
        self._hosts = hosts
        self._paths = [
            f"{base_path}/{service}/malformed-{number}" for service in SERVICES for number in range(len(MALFORMED))
        ]

    def show(self) -> None:
        """Makes them. Where ZooKeeper is away, there are none."""

        def make(client: KazooClient) -> None:
            for number, path in enumerate(self._paths):
                client.ensure_path(path)
                client.set(path, MALFORMED[number % len(MALFORMED)])

        self._do(make)

    def remove(self) -> None:
        """Removes those that are there."""

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
    """Writes values whose events no topic with default settings takes, at whichever replicas answer."""
    for number, replica in enumerate(replicas):
        text = base64.b64encode(secrets.token_bytes(OVERSIZED_BYTES)).decode()
        request = config_pb2.UpdateConfigRequest(
            key=f"large-{number}", environment="large", value=Value(string_value=text), allow_missing=True
        )
        try:
            replica.configs.UpdateConfig(request, timeout=ANSWER_SECONDS)
        except grpc.RpcError:
            # Another fault is going on; the value may be there, or not.
            continue
