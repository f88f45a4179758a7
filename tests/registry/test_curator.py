"""Nodes as Curator's JSON: written and read."""

import json

import pytest

from configsvc.registry import curator
from configsvc.registry.port import Node


def curator_url(data: bytes) -> str:
    """The URI that a client on Curator builds (`ServiceInstance.buildUriSpec`)."""
    source = json.loads(data)
    values = {**source, "scheme": "http" if source["sslPort"] is None else "https", "ssl-port": source["sslPort"]}
    return "".join(
        str(values[part["value"]]) if part["variable"] else part["value"] for part in source["uriSpec"]["parts"]
    )


@pytest.mark.parametrize(
    "url",
    ["http://asr:8087", "https://asr:8443/api/v2", "http://asr:8087/", "http://asr:80/a?b=c", "http://10.0.0.7:1/%20"],
)
def test_curator_client_builds_the_registered_url(url: str) -> None:
    node = Node("asr", "one", "r1", 3, {"service_url": url, "registered_at": "2026-01-01T00:00:00+00:00"})
    assert curator_url(curator.to_json(node)) == url
    assert curator.from_json("asr", "one", curator.to_json(node)) == node


def test_port_of_the_scheme_is_written_if_the_url_has_none() -> None:
    source = json.loads(curator.to_json(Node("asr", "one", "r1", 1, {"service_url": "https://asr/x"})))
    assert (source["address"], source["port"], source["sslPort"]) == ("asr", None, 443)


def test_foreign_instance_keeps_the_path_of_its_url() -> None:
    data = curator.to_json(Node("asr", "one", "r1", 1, {"service_url": "http://asr:8087/api"}))
    foreign = {**json.loads(data), curator.OWN_MEMBER: None}
    found = curator.from_json("asr", "one", json.dumps(foreign).encode())
    assert (found.owner, found.payload["service_url"]) == ("", "http://asr:8087/api")


def test_node_of_an_earlier_release_is_read_as_own() -> None:
    """During a rolling upgrade both forms exist."""
    data = (
        b'{"name":"asr","id":"one","address":"asr","port":8087,"sslPort":null,"payload":{"owner":"old","generation":3,'
        b'"registration":{"service_url":"http://asr:8087","status":"HEALTHY"}},"registrationTimeUTC":1795521600000,'
        b'"serviceType":"DYNAMIC","uriSpec":{"parts":[{"value":"scheme","variable":true},{"value":"://","variable":false},'
        b'{"value":"address","variable":true},{"value":":","variable":false},{"value":"port","variable":true}]}}'
    )
    registration = {"service_url": "http://asr:8087", "status": "HEALTHY"}
    assert curator.from_json("asr", "one", data) == Node("asr", "one", "old", 3, registration)


def test_earlier_release_reads_a_node_as_foreign_with_the_right_url() -> None:
    """It reads the owner from the payload only, and does not replace a node without an owner."""
    source = json.loads(curator.to_json(Node("asr", "one", "new", 4, {"service_url": "https://asr:8443/x"})))
    assert source["payload"] is None
    assert "".join(part["value"] for part in source["uriSpec"]["parts"] if not part["variable"]) == "https://asr:8443/x"
