"""Three replicas on the run's shared services. Each test module has its own database, topic and base path."""

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
    """The services' addresses, with a database, a topic, a base path and a key prefix for this module alone."""
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
    """Three replicas: a, b and c."""
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
    """The owner of each instance of a service in ZooKeeper."""
    base = f"{settings['ZOOKEEPER_BASE_PATH']}/{service}"
    if not zookeeper.exists(base):
        return {}
    owners = {}
    for name in zookeeper.get_children(base):
        # A node that disappears between the two calls belongs to a dead session.
        with suppress(NoNodeError):
            data, _ = zookeeper.get(f"{base}/{name}")
            owners[name] = json.loads(data)["configsvc"]["owner"]
    return owners


def events(settings: Mapping[str, str], until_revision: int) -> list[dict[str, Any]]:
    """Every event on the topic, partition by partition in order. Returns when `until_revision` is among them."""
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
        events: list[dict[str, Any]] = []
        while not any(event["revision"] >= until_revision for event in events):
            message = consumer.poll(30)
            assert message is not None, f"revision {until_revision} was not published; {len(events)} events were"
            assert message.error() is None, message.error()
            events.append(json.loads(message.value() or b""))
        # Partitions are read in no fixed order: read all of them to the end.
        while (message := consumer.poll(1)) is not None:
            events.append(json.loads(message.value() or b""))
        return events
    finally:
        consumer.close()
