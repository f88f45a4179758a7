"""Curator's and Spring Cloud ZooKeeper's own classes read our nodes and we read theirs, on a real ZooKeeper."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from configsvc.domain.instances import HEALTHY, OUT_OF_SERVICE, SUSPECT, UNHEALTHY
from configsvc.registry.port import Node
from configsvc.registry.zookeeper.client import ZookeeperRegistryClient
from tests.engines.java import JAVA_OPTIONS, jars, java

pytestmark = pytest.mark.timeout(300)

AT = "2026-01-02T03:04:05+00:00"
AT_MS = 1_767_323_045_000


class Peer:
    """The JVM service."""

    def __init__(self, hosts: str, base: str) -> None:
        self._process = subprocess.Popen(
            [java(), "-Xmx128m", *JAVA_OPTIONS, "-cp", f"{jars('curator')}/*", str(Path(__file__).parent / "Peer.java"), hosts, base],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8",
        )  # fmt: skip

    def ask(self, do: str, **command: object) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": do, **command}) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        assert "error" not in answer, answer
        return answer

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()


@pytest.fixture
def peer(zookeeper_hosts: str, chroot: str) -> Iterator[Peer]:
    started = Peer(zookeeper_hosts, chroot)
    yield started
    started.close()


@pytest.fixture
def registry(zookeeper_hosts: str, chroot: str) -> Callable[[], ZookeeperRegistryClient]:
    return lambda: ZookeeperRegistryClient(zookeeper_hosts, chroot, "r1", connection_seconds=60, session_seconds=10)


# The registered URL, and the URL that Spring builds from host and port. Spring knows only http and https.
OURS = {
    "http": ("http://asr:8087", "http://asr:8087"),
    "https": ("https://asr:8443", "https://asr:8443"),
    "http-usual-port": ("http://asr", "http://asr:80"),
    "https-usual-port": ("https://asr/x", "https://asr:443"),
    "path-and-query": ("http://asr:80/a/b%20c?d=e&f=%7Bg%7D", "http://asr:80"),
    "slash": ("http://asr:80/", "http://asr:80"),
    "ipv6": ("http://[2001:db8::1]:8087/v1", "http://[2001:db8::1]:8087"),
    "ipv6-https": ("https://[::1]:8443", "https://[::1]:8443"),
    "grpc": ("grpc://asr:50051", "http://asr:50051"),
    "tcp": ("tcp://asr:5432", "http://asr:5432"),
    "upper-case": ("HTTP://ASR.Example:80/A", "http://asr.example:80"),
}


async def test_jvm_reads_every_url_that_is_registered_here(
    peer: Peer, registry: Callable[[], ZookeeperRegistryClient]
) -> None:
    async with registry() as client:
        for name, (url, _) in OURS.items():
            payload = {"service_url": url, "registered_at": AT, "metadata": {"zone": "ü"}, "status": HEALTHY}
            await client.put(Node("ours", name, "r1", 1, payload))
        read = peer.ask("read", service="ours")
        assert {instance["id"]: instance["uri"] for instance in read["curator"]} == {
            name: url for name, (url, _) in OURS.items()
        }
        assert {instance["id"]: instance["uri"] for instance in read["spring"]} == {
            name: url for name, (url, _) in OURS.items()
        }
        assert {instance["id"]: instance["hostAndPort"] for instance in read["spring"]} == {
            n: u for n, (_, u) in OURS.items()
        }
        assert {instance["id"] for instance in read["spring"] if instance["secure"]} == {
            n for n in OURS if "https" in n
        }
        assert {instance["at"] for instance in read["curator"]} == {AT_MS}
        assert {instance["payload"] for instance in read["curator"]} == {None}
        assert sorted(read["provided"]) == sorted(OURS)


async def test_curator_provides_only_our_healthy_instances(
    peer: Peer, registry: Callable[[], ZookeeperRegistryClient]
) -> None:
    async with registry() as client:
        for status in (HEALTHY, UNHEALTHY, SUSPECT):
            await client.put(Node("ours", status, "r1", 1, {"service_url": "http://h:1", "status": status}))
        read = peer.ask("read", service="ours")
        assert {instance["id"]: instance["enabled"] for instance in read["curator"]} == {
            HEALTHY: True,
            UNHEALTHY: False,
            SUSPECT: False,
        }
        assert read["provided"] == [HEALTHY]


SPEC = "{scheme}://{address}:{port}"
# What the JVM registers, and the URL that is discovered here: the same as Curator's unless given.
THEIRS: dict[str, tuple[dict[str, Any], str]] = {
    "http": ({"address": "h", "port": 80, "uriSpec": SPEC}, ""),
    "https-ssl-port": ({"address": "h", "port": 80, "sslPort": 8443, "uriSpec": "{scheme}://{address}:{ssl-port}/a"}, ""),
    "both-ports": ({"address": "h", "port": 80, "sslPort": 8443, "uriSpec": SPEC}, ""),
    "grpc": ({"address": "h", "port": 50051, "uriSpec": "grpc://{address}:{port}"}, ""),
    "tcp": ({"address": "h", "port": 5432, "uriSpec": "tcp://{address}:{port}"}, ""),
    "all-variables": (
        {"address": "h", "port": 1, "uriSpec": SPEC + "/{name}/{id}/{service-type}/{registration-time-utc}/{none}x"}, "",
    ),
    "braces": ({"address": "h", "port": 1, "uriSpec": SPEC + "/{[}x{]}"}, ""),
    "ipv6-in-brackets": ({"address": "[::1]", "port": 1, "uriSpec": SPEC + "/x"}, ""),
    "path-and-query": ({"address": "h", "port": 1, "uriSpec": SPEC + "/a?b=c"}, ""),
    "upper-case": ({"address": "H.Example", "port": 1, "uriSpec": "HTTP://{address}:{port}/A"}, ""),
    # Curator builds unusable URLs from these.
    "ssl-port-alone": ({"address": "h", "sslPort": 8443, "uriSpec": SPEC}, "https://h:8443"),
    "ipv6": ({"address": "::1", "port": 1, "uriSpec": SPEC}, "http://[::1]:1"),
    "no-spec": ({"address": "h", "port": 8080}, "http://h:8080"),
    "no-spec-tls": ({"address": "h", "sslPort": 8443}, "https://h:8443"),
    # Discovery must not reveal the password.
    "user": ({"address": "h", "port": 1, "uriSpec": "http://u:p@{address}:{port}/x"}, "http://h:1/x"),
}  # fmt: skip


@pytest.mark.parametrize("program", ["curator", "spring"])
async def test_every_url_of_a_jvm_instance_is_discovered(
    program: str, peer: Peer, registry: Callable[[], ZookeeperRegistryClient]
) -> None:
    expected = {}
    for name, (instance, url) in THEIRS.items():
        answer = peer.ask(
            "show", **{"as": program}, service="theirs", id=name, at=AT_MS, payload={"zone": "ü"}, **instance
        )
        expected[name] = url or answer["uri"]
    async with registry() as client:
        nodes = await client.nodes("theirs")
        assert {node.instance_id: node.payload["service_url"] for node in nodes} == expected
        assert [node.payload["metadata"] for node in nodes] == [{"zone": "ü"}] * len(nodes)
        assert {(node.owner, node.payload["registered_at"], node.payload["status"]) for node in nodes} == {
            ("", AT, HEALTHY)
        }
        assert client.notes == ""


async def test_disabled_jvm_instance_is_out_of_service(
    peer: Peer, registry: Callable[[], ZookeeperRegistryClient]
) -> None:
    def show(name: str, program: str, **more: object) -> None:
        peer.ask("show", **{"as": program}, service="s", id=name, at=AT_MS, address="h", port=1, uriSpec=SPEC, **more)

    show("curator-on", "curator", enabled=True)
    show("curator-off", "curator", enabled=False)
    show("spring-up", "spring", payload={"instance_status": "UP"})
    show("spring-out", "spring", payload={"instance_status": "OUT_OF_SERVICE"})
    show("spring-silent", "spring", payload={})
    async with registry() as client:
        assert {node.instance_id: node.payload["status"] for node in await client.nodes("s")} == {
            "curator-on": HEALTHY, "curator-off": OUT_OF_SERVICE, "spring-up": HEALTHY, "spring-out": OUT_OF_SERVICE,
            "spring-silent": HEALTHY,
        }  # fmt: skip


async def test_payload_members_that_are_not_text_become_json(
    peer: Peer, registry: Callable[[], ZookeeperRegistryClient]
) -> None:
    payload = {"port": 8080, "on": True, "list": ["a", 1], "object": {"b": "ü"}, "text": "x"}
    peer.ask(
        "show", **{"as": "curator"}, service="s", id="one", at=AT_MS, address="h", port=1, uriSpec=SPEC, payload=payload
    )
    async with registry() as client:
        (node,) = await client.nodes("s")
        assert node.payload["metadata"] == {
            "port": "8080", "on": "true", "list": '["a",1]', "object": '{"b":"ü"}', "text": "x",
        }  # fmt: skip
