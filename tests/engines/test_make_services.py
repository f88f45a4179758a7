"""`make services` in one terminal, `make run` in another: the README's examples on real engines."""

import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import jsonschema
import pytest
from kazoo.client import KazooClient

from tests.docs.pages import PAGES, ROOT
from tests.e2e.conftest import Running, start, stop
from tests.e2e.test_readme import run_examples
from tests.engines.ports import Port
from tests.engines.processes import clean_environment
from tests.replicas.conftest import events
from tests.replicas.fleet import eventually

TOPIC = "config-updates"
OPERATIONS = PAGES[ROOT / "docs" / "operations.md"]
SCHEMA = json.loads((ROOT / "src/configsvc/bus/config-updates.schema.json").read_text())


def _environment_without_engines() -> dict[str, str]:
    """This environment without the addresses of engines."""
    addresses = ("DATABASE_URL", "REDIS_HOST", "KAFKA_BOOTSTRAP_SERVERS", "ZOOKEEPER_HOSTS")
    return {name: value for name, value in clean_environment().items() if name not in addresses}


@pytest.fixture(scope="module")
def exported() -> Iterator[dict[str, str]]:
    """The variables in the lines of `export`, which a person pastes."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.engines"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        env=_environment_without_engines(),
        text=True,
    ) as services:
        assert services.stdout is not None
        found = {}
        for line in services.stdout:
            words = shlex.split(line, comments=True)
            if words:
                assert words[0] == "export"
                name, _, value = words[1].partition("=")
                found[name] = value
            if "Running until Ctrl-C" in line:
                break
        yield found
        services.send_signal(signal.SIGINT)
        assert services.wait(60) == 0


@pytest.fixture(scope="module")
def service(exported: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One worker: in a pasted block each line reads what the line before has written, without `min_revision`."""
    with Port() as port:
        running = start(tmp_path_factory.mktemp("service"), port.number, **exported)
        yield running
        assert stop(running) == 0


@pytest.fixture(scope="module")
def examples(service: Running, tmp_path_factory: pytest.TempPathFactory) -> None:
    run_examples(service, tmp_path_factory.mktemp("examples"))


def shown_in_operations(name: str) -> object:
    """The JSON in docs/operations.md after a comment with this name."""
    (text,) = re.findall(rf"<!-- {name} -->\n```json\n(.*?)```", OPERATIONS, flags=re.DOTALL)
    return json.loads(text)


def test_migrate_creates_the_schema(exported: dict[str, str]) -> None:
    environment = {**_environment_without_engines(), **exported}
    command = [sys.executable, "-m", "configsvc", "migrate"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "the schema in postgresql is up to date\n"


def test_two_workers_use_all_engines(exported: dict[str, str], tmp_path: Path) -> None:
    seen: dict[str, dict[str, tuple[str, str]]] = {}
    engines = {"storage": "postgresql", "cache": "redis", "bus": "kafka", "registry": "zookeeper"}
    all_up = {name: (engine, "up") for name, engine in engines.items()}

    def both_are_up() -> bool:
        health = httpx.get(f"{running.url}/ready", timeout=10).json()
        parts = {
            part["name"]: (part["backend"], part["state"]) for part in health["components"] if part["name"] in engines
        }
        seen[health["instance_id"]] = parts
        return seen == {"two-0": all_up, "two-1": all_up}

    with Port() as port:
        running = start(tmp_path, port.number, WORKERS="2", SERVICE_INSTANCE_ID="two", **exported)
        try:
            # It is ready before Kafka's topic is created.
            eventually(both_are_up, "both workers use all four engines")
        finally:
            assert stop(running) == 0


@pytest.mark.usefixtures("examples")
def test_operations_page_has_the_event_of_the_readme_example(service: Running, exported: dict[str, str]) -> None:
    example = shown_in_operations("event")
    assert isinstance(example, dict)
    written = httpx.get(f"{service.url}/api/v1/changes", params={"actor": "ana"}, timeout=10).json()["changes"]
    revision = int(written[0]["revision"])
    found = events({**exported, "KAFKA_TOPIC_CONFIG_UPDATES": TOPIC}, revision)
    for event in (*found, example):
        jsonschema.validate(event, SCHEMA, format_checker=jsonschema.FormatChecker())
    # An event may be published more than once.
    (text,) = {json.dumps(event, sort_keys=True) for event in found if event["revision"] == revision}
    made = json.loads(text)
    # The revision and the time differ from run to run.
    assert made == {**example, "revision": revision, "at": made["at"]}


@pytest.mark.usefixtures("examples")
def test_operations_page_has_the_node_of_the_readme_example(exported: dict[str, str]) -> None:
    example = shown_in_operations("node")
    client = KazooClient(exported["ZOOKEEPER_HOSTS"])
    client.start(30)
    try:
        (instance_id,) = client.get_children("/services/asr-service")
        data, state = client.get(f"/services/asr-service/{instance_id}")
        assert state.ephemeralOwner, "the node belongs to its replica's session"
        replicas = client.get_children("/services-replicas")
    finally:
        client.stop()
        client.close()
    node = json.loads(data)
    assert node["configsvc"]["owner"] in replicas
    assert _shape(node) == _shape(example), data.decode()


def _shape(node: object) -> object:
    """A node without the values that differ from run to run."""
    varying = ("owner", "registered_at", "registrationTimeUTC")
    if isinstance(node, dict):
        return {name: type(value) if name in varying else _shape(value) for name, value in node.items()}
    return [_shape(item) for item in node] if isinstance(node, list) else node
