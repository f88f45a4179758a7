"""The topic of the events, and the settings that all Kafka clients share."""

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

# For the log messages of librdkafka.
driver_logger = logging.getLogger("configsvc.bus.kafka.driver")
driver_logger.setLevel(logging.ERROR)

PARTITIONS = 6
# The broker's own default.
REPLICATION_FACTOR = -1

METADATA_SECONDS = 2.0

COMMON: Mapping[str, Any] = {
    "client.id": "configsvc",
    # Reconnect quickly, so that a broker that comes back is used at once.
    "reconnect.backoff.ms": 100,
    "reconnect.backoff.max.ms": 1_000,
    "socket.timeout.ms": 5_000,
    "socket.connection.setup.timeout.ms": 5_000,
    "topic.metadata.refresh.interval.ms": 5_000,
    "log.connection.close": False,
}

# The limits of a batch: a topic refuses a larger one, and a batch must fit in one segment.
_LIMITS = ("max.message.bytes", "segment.bytes")


def ensure_topic(bootstrap: str, topic: str) -> None:
    """Creates the topic if it is missing. Raises `KafkaException`."""
    admin = AdminClient({**COMMON, "bootstrap.servers": bootstrap}, logger=driver_logger)
    if topic in admin.list_topics(timeout=METADATA_SECONDS).topics:
        return
    new_topic = NewTopic(topic, num_partitions=PARTITIONS, replication_factor=REPLICATION_FACTOR)
    (creation,) = admin.create_topics([new_topic], request_timeout=METADATA_SECONDS).values()
    try:
        creation.result(METADATA_SECONDS * 2)
    except KafkaException as error:
        # Another replica may have created it at the same time.
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise


def read_limit_bytes(bootstrap: str, topic: str) -> int:
    """The size of the largest compressed batch that the topic takes.

    Raises `KafkaException`, also if this client may not read the configuration of the topic.
    """
    admin = AdminClient({**COMMON, "bootstrap.servers": bootstrap}, logger=driver_logger)
    resources = [ConfigResource(ResourceType.TOPIC, topic)]
    (description,) = admin.describe_configs(resources, request_timeout=METADATA_SECONDS).values()
    configs = description.result(METADATA_SECONDS * 2)
    # If the topic has no limit of its own, these are the broker's.
    limits = [int(configs[name].value) for name in _LIMITS if name in configs]
    if not limits:
        raise KafkaException(KafkaError(KafkaError._INVALID_ARG, f"the configuration of '{topic}' has no {_LIMITS[0]}"))
    return min(limits)
