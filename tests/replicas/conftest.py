"""Three replicas on the run's shared services, each test module with a database, a topic and a base path of its own."""

import json
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition
from kazoo.client import KazooClient
from kazoo.exceptions import NoNodeError

from tests.engines.service_set import ServiceSet
from tests.replicas.fleet import Replica, fleet


@pytest.fixture(scope="session")
def postgres_database(services: ServiceSet) -> Callable[[], Any]:
    return services.postgres.database


@contextmanager
def own_settings(services: ServiceSet) -> Iterator[dict[str, str]]:
    """The services' addresses, with a database, a topic, a base path and keys that nobody else has."""
    with services.postgres.database() as url:
        own = f"test-{secrets.token_hex(6)}"
        yield {
            **services.environment(),
            "DATABASE_URL": url,
            "KAFKA_TOPIC_CONFIG_UPDATES": own,
            "ZOOKEEPER_BASE_PATH": f"/{own}",
            "REDIS_PREFIX": f"{own}:",
        }
        services.kafka.delete_topic(own)


@pytest.fixture(scope="module")
def settings(services: ServiceSet) -> Iterator[dict[str, str]]:
    with own_settings(services) as own:
        yield own


@pytest.fixture
def replicas(settings: dict[str, str], tmp_path: Any) -> Iterator[list[Replica]]:
    """Three of them: a, b and c."""
    names = [f"{name}-{secrets.token_hex(3)}" for name in "abc"]
    with fleet(tmp_path, settings, *names) as started:
        yield started


@pytest.fixture
def zookeeper(settings: dict[str, str]) -> Iterator[KazooClient]:
    client = KazooClient(settings["ZOOKEEPER_HOSTS"])
    client.start(30)
    yield client
    client.stop()
    client.close()


def shown(zookeeper: KazooClient, settings: Mapping[str, str], service: str) -> dict[str, str]:
    """Who owns each instance of a service, as ZooKeeper shows it."""
    base = f"{settings['ZOOKEEPER_BASE_PATH']}/{service}"
    if not zookeeper.exists(base):
        return {}
    found = {}
    for name in zookeeper.get_children(base):
        # One that goes with a dead session between the two calls is not shown.
        with suppress(NoNodeError):
            data, _ = zookeeper.get(f"{base}/{name}")
            found[name] = json.loads(data)["configsvc"]["owner"]
    return found


def events(settings: Mapping[str, str], until_revision: int) -> list[dict[str, Any]]:
    """Every event on the topic, partition by partition in order, once `until_revision` is among them."""
    topic = settings["KAFKA_TOPIC_CONFIG_UPDATES"]
    consumer = Consumer(
        {
            "bootstrap.servers": settings["KAFKA_BOOTSTRAP_SERVERS"],
            "group.id": secrets.token_hex(4),
            "enable.auto.commit": False,
        }
    )
    try:
        partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
        consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
        found: list[dict[str, Any]] = []
        while not any(event["revision"] >= until_revision for event in found):
            message = consumer.poll(30)
            assert message is not None, f"revision {until_revision} did not come; {len(found)} events did"
            assert message.error() is None, message.error()
            found.append(json.loads(message.value() or b""))
        # Partitions are read in no order among each other: what is there is read to its end.
        while (message := consumer.poll(1)) is not None:
            found.append(json.loads(message.value() or b""))
        return found
    finally:
        consumer.close()
