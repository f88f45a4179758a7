"""The topic of the events, and how clients reach it."""

import logging
from collections.abc import Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    ConfigResource,
    NewTopic,
    ResourceType,
)

# librdkafka's own words.
driver_logger = logging.getLogger("configsvc.bus.kafka.bus.driver")
driver_logger.setLevel(logging.ERROR)

PARTITIONS = 6
# The broker's own default.
REPLICATION_FACTOR = -1

METADATA_SECONDS = 2.0

COMMON: Mapping[str, Any] = {
    "client.id": "configsvc",
    # A broker that is back is found at once.
    "reconnect.backoff.ms": 100,
    "reconnect.backoff.max.ms": 1_000,
    "socket.timeout.ms": 5_000,
    "socket.connection.setup.timeout.ms": 5_000,
    "topic.metadata.refresh.interval.ms": 5_000,
    "log.connection.close": False,
}

# Of a batch: a topic takes none that is larger than the first, and none fits in a segment that is smaller.
_LIMITS = ("max.message.bytes", "segment.bytes")


def ensure_topic(bootstrap: str, topic: str) -> None:
    """Makes the topic if it is missing. Raises `KafkaException`."""
    admin = AdminClient({**COMMON, "bootstrap.servers": bootstrap}, logger=driver_logger)
    if topic in admin.list_topics(timeout=METADATA_SECONDS).topics:
        return
    wanted = NewTopic(topic, num_partitions=PARTITIONS, replication_factor=REPLICATION_FACTOR)
    (made,) = admin.create_topics([wanted], request_timeout=METADATA_SECONDS).values()
    try:
        made.result(METADATA_SECONDS * 2)
    except KafkaException as error:
        # Another replica was quicker.
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise


def read_limit_bytes(bootstrap: str, topic: str) -> int:
    """The largest batch that the topic takes, compressed. Raises `KafkaException`, also if reading is not allowed."""
    admin = AdminClient({**COMMON, "bootstrap.servers": bootstrap}, logger=driver_logger)
    asked = [ConfigResource(ResourceType.TOPIC, topic)]
    (answer,) = admin.describe_configs(asked, request_timeout=METADATA_SECONDS).values()
    found = answer.result(METADATA_SECONDS * 2)
    # A topic that has no limit of its own answers with its broker's.
    limits = [int(found[name].value) for name in _LIMITS if name in found]
    if not limits:
        raise KafkaException(KafkaError(KafkaError._INVALID_ARG, f"'{topic}' tells no {_LIMITS[0]}"))
    return min(limits)
