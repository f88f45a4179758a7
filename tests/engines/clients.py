"""Clients of Kafka and ZooKeeper, for the tests of the harness."""

from __future__ import annotations

import importlib
import time
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition

from tests.engines.processes import SECONDS


def zookeeper_client(hosts: str) -> Any:
    client = importlib.import_module("kazoo.client").KazooClient(hosts, timeout=5.0)
    client.start(timeout=SECONDS)
    return client


def produce(bootstrap: str, topic: str, key: str) -> None:
    problems: list[object] = []
    producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True})
    producer.produce(topic, key=key, value=f"value of {key}", on_delivery=lambda error, _: problems.append(error))
    assert producer.flush(SECONDS) == 0
    assert problems == [None]


def consume(bootstrap: str, topic: str, count: int, *, as_group: bool = False) -> set[str]:
    """The keys of the first `count` messages."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"readers-of-{topic}-{time.monotonic_ns()}",
            "auto.offset.reset": "earliest",
        }
    )
    keys: set[str] = set()
    deadline = time.monotonic() + SECONDS
    try:
        if as_group:
            consumer.subscribe([topic])
        else:
            partitions = consumer.list_topics(topic, timeout=SECONDS).topics[topic].partitions
            consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
        while len(keys) < count:
            assert time.monotonic() < deadline, f"only {keys}"
            message = consumer.poll(0.1)
            if message is not None and message.error() is None:
                key = message.key()
                assert key is not None
                keys.add(key.decode() if isinstance(key, bytes) else key)
    finally:
        consumer.close()
    return keys
