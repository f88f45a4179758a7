"""Creates topics for tests, and reads their messages."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)

# Reached only if a test fails.
PATIENCE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Message:
    """A message. `value` None: a tombstone."""

    partition: int
    key: str
    value: bytes | None
    headers: Mapping[str, str]


def make_topic(bootstrap: str, topic: str, config: Mapping[str, str], partitions: int = 3) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap})
    new_topic = NewTopic(topic, num_partitions=partitions, replication_factor=1, config=dict(config))
    admin.create_topics([new_topic])[topic].result(PATIENCE_SECONDS)


def configure(bootstrap: str, topic: str, name: str, value: str) -> None:
    """Changes one setting of a topic."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    resources = [ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])]
    (done,) = admin.incremental_alter_configs(resources).values()
    done.result(PATIENCE_SECONDS)


def messages(bootstrap: str, topic: str) -> list[Message]:
    """All messages on a topic now, partition by partition."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": secrets.token_hex(4), "enable.auto.commit": False})
    try:
        read: list[Message] = []
        for number in sorted(consumer.list_topics(topic, timeout=PATIENCE_SECONDS).topics[topic].partitions):
            place = TopicPartition(topic, number, 0)
            _, end = consumer.get_watermark_offsets(place, timeout=PATIENCE_SECONDS)
            consumer.assign([place])
            while consumer.position([place])[0].offset < end and end > 0:
                message = consumer.poll(PATIENCE_SECONDS)
                assert message is not None, f"partition {number} ends before its end, {end}"
                assert message.error() is None, message.error()
                named: Any = message.headers() or ()
                key: Any = message.key()
                headers = {name: value.decode() for name, value in named}
                read.append(Message(number, key.decode(), message.value(), headers))
        return read
    finally:
        consumer.close()
