"""Kafka as the bus: the events that leave through `kafka_publisher` wake the other replicas.

There is no consumer group: each replica reads all partitions, from the end. librdkafka's calls block, so the bus has a
thread of its own, and hands over to the loop.
"""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from configsvc.bus.kafka.topic import COMMON, METADATA_SECONDS, driver_logger, ensure_topic
from configsvc.bus.local import LocalBus
from configsvc.domain.records import Change
from configsvc.errors import Unavailable
from configsvc.tasks import SupervisedTask, Supervisor

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.2
# While all is well, partitions are looked at this often; while not, the broker.
REFRESH_SECONDS, RETRY_SECONDS = 5.0, 0.5


class KafkaBus:
    """See `port.Bus`. Entering does not wait for the broker."""

    name = "kafka"

    def __init__(self, bootstrap: str, topic: str, supervisor: Supervisor | None = None) -> None:
        self._supervisor = supervisor or Supervisor()
        self._consumer: SupervisedTask | None = None
        self._bootstrap = bootstrap
        self._topic = topic
        self._local = LocalBus()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listening = asyncio.Event()
        self._problem: tuple[datetime, str] | None = (datetime.now(UTC), "not connected yet")

    def announce(self, changes: Sequence[Change]) -> None:
        """Tells this process at once. The others hear of it by the event, which the outbox publishes."""
        self._local.announce(changes)

    def subscribe(self) -> AsyncIterator[int]:
        """See the port."""
        return self._local.subscribe()

    async def ping(self) -> None:
        """See the port."""
        if self._problem is not None:
            since, said = self._problem
            raise Unavailable(f"Kafka is away since {since.isoformat()}: {said}", "BUS_UNAVAILABLE")

    async def wait_until_listening(self) -> None:
        """Returns when all partitions are read from their ends."""
        await self._listening.wait()

    async def __aenter__(self) -> Self:
        await self._local.__aenter__()
        self._loop = asyncio.get_running_loop()
        self._consumer = self._supervisor.supervise("kafka consumer", self._consume)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._local.__aexit__(kind, error, trace)
        if self._consumer is not None:
            await self._consumer.stop()

    async def _consume(self) -> None:
        """Reads in a thread of its own. A hung broker may hold it in a call; it is a daemon's, and ends with the process."""
        closing, ended = threading.Event(), asyncio.get_running_loop().create_future()

        def end(error: Exception | None) -> None:
            if not ended.done():
                ended.set_result(error)

        def run() -> None:
            failed: Exception | None = None
            try:
                self._run(closing)
            except Exception as error:
                failed = error
            self._on_loop(end, failed)

        thread = threading.Thread(target=run, name="kafka-bus", daemon=True)
        thread.start()
        try:
            if (error := await ended) is not None:
                raise error
        finally:
            closing.set()
            await asyncio.get_running_loop().run_in_executor(None, thread.join, POLL_SECONDS * 2)

    def _run(self, closing: threading.Event) -> None:
        consumer = Consumer(
            {
                **COMMON,
                "bootstrap.servers": self._bootstrap,
                # Asked for by the client; no group is joined, and nothing is committed.
                "group.id": "configsvc",
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "auto.offset.reset": "latest",
                "fetch.wait.max.ms": 20,
                "allow.auto.create.topics": False,
                "error_cb": self._driver_failed,
            },
            logger=driver_logger,
        )
        partitions: frozenset[int] = frozenset()
        due = 0.0
        while not closing.is_set():
            try:
                if time.monotonic() >= due or self._problem is not None:
                    partitions = self._refresh(consumer, partitions)
                    if not partitions:
                        ensure_topic(self._bootstrap, self._topic)
                    due = time.monotonic() + (REFRESH_SECONDS if partitions else RETRY_SECONDS)
                message = consumer.poll(POLL_SECONDS)
                if message is not None:
                    self._take(message)
            except KafkaException as error:
                self._fail(str(error.args[0]) if error.args else str(error))
                closing.wait(RETRY_SECONDS)
            except Exception as error:
                logger.exception("the Kafka consumer failed and goes on")
                self._fail(str(error))
                closing.wait(RETRY_SECONDS)
        consumer.close()

    def _refresh(self, consumer: Consumer, known: frozenset[int]) -> frozenset[int]:
        """Reads all partitions that there are, new ones from their end."""
        topic = consumer.list_topics(self._topic, timeout=METADATA_SECONDS).topics[self._topic]
        if topic.error is not None and topic.error.code() not in (KafkaError.UNKNOWN_TOPIC_OR_PART,):
            raise KafkaException(topic.error)
        partitions = frozenset(topic.partitions)
        if partitions != known:
            places = [TopicPartition(self._topic, number) for number in sorted(partitions)]
            for place in places:
                place.offset = consumer.get_watermark_offsets(place, timeout=METADATA_SECONDS)[1]
            consumer.assign(places)
        if self._problem is not None:
            self._problem = None
            logger.info("the Kafka topic '%s' is read, %d partitions", self._topic, len(partitions))
        if partitions:
            self._on_loop(self._listening.set)
        return partitions

    def _take(self, message: Message) -> None:
        problem = message.error()
        if problem is not None:
            if problem.code() in (KafkaError._PARTITION_EOF, KafkaError.UNKNOWN_TOPIC_OR_PART):
                return
            raise KafkaException(problem)
        revision = dict(message.headers() or ()).get("revision")
        try:
            number = int(revision or b"")
        except (TypeError, ValueError):
            logger.debug("a message at offset %s of '%s' has no revision", message.offset(), self._topic)
            return
        self._on_loop(self._local.announce_revision, number)

    def _driver_failed(self, problem: KafkaError) -> None:
        if problem.code() == KafkaError._ALL_BROKERS_DOWN:
            self._fail(problem.str())

    def _fail(self, said: str) -> None:
        if self._problem is None:
            logger.warning("Kafka is away; the poll goes on alone: %s", said)
            self._problem = (datetime.now(UTC), said)
        else:
            self._problem = (self._problem[0], said)

    def _on_loop(self, call: Any, *arguments: Any) -> None:
        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call, *arguments)
