"""Kafka as the bus: the events that the outbox publishes wake the other replicas.

There is no consumer group. Each replica reads all partitions, from their ends. librdkafka's calls block, so the consumer
runs in a thread of its own, and hands revisions over to the event loop.
"""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from configsvc.bus.kafka.topic import COMMON, METADATA_SECONDS, driver_logger, ensure_topic
from configsvc.bus.local import LocalBus
from configsvc.clock import Clock, SystemClock
from configsvc.domain.records import Change
from configsvc.errors import Unavailable
from configsvc.tasks import SupervisedTask, Supervisor

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.2
# The list of partitions is read this often. After a failure, the broker is tried this often.
REFRESH_SECONDS, RETRY_SECONDS = 5.0, 0.5

_SYSTEM_CLOCK = SystemClock()


class KafkaBus:
    """Entering does not wait for the broker. While the broker is away, replicas see changes by polling the log."""

    name = "kafka"

    def __init__(
        self, bootstrap: str, topic: str, supervisor: Supervisor | None = None, clock: Clock = _SYSTEM_CLOCK
    ) -> None:
        self._supervisor = supervisor or Supervisor()
        self._clock = clock
        self._task: SupervisedTask | None = None
        self._bootstrap = bootstrap
        self._topic = topic
        self._local = LocalBus()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listening = asyncio.Event()
        self._problem: tuple[datetime, str] | None = (clock.now(), "not connected yet")

    def announce(self, changes: Sequence[Change]) -> None:
        """Wakes the subscribers of this process; the events that the outbox publishes wake the other replicas."""
        self._local.announce(changes)

    def subscribe(self) -> AsyncIterator[int]:
        return self._local.subscribe()

    async def ping(self) -> None:
        if self._problem is not None:
            since, reason = self._problem
            raise Unavailable(f"Kafka is away since {since.isoformat()}: {reason}", "BUS_UNAVAILABLE")

    async def wait_until_listening(self) -> None:
        """Returns when all partitions are read from their ends."""
        await self._listening.wait()

    async def __aenter__(self) -> Self:
        await self._local.__aenter__()
        self._loop = asyncio.get_running_loop()
        self._task = self._supervisor.supervise("kafka consumer", self._consume)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._local.__aexit__(kind, error, trace)
        if self._task is not None:
            await self._task.stop()

    async def _consume(self) -> None:
        """Runs the consumer's thread. It is a daemon: if a broker hangs it in a call, it ends with the process."""
        closing, ended = threading.Event(), asyncio.get_running_loop().create_future()

        def set_ended(error: Exception | None) -> None:
            if not ended.done():
                ended.set_result(error)

        def run() -> None:
            failure: Exception | None = None
            try:
                self._run(closing)
            except Exception as error:
                failure = error
            self._on_loop(set_ended, failure)

        thread = threading.Thread(target=run, name="kafka-bus", daemon=True)
        thread.start()
        try:
            if (error := await ended) is not None:
                raise error
        finally:
            closing.set()
            await asyncio.get_running_loop().run_in_executor(None, thread.join, POLL_SECONDS * 2)

    def _run(self, closing: threading.Event) -> None:
        """The consumer's thread."""
        consumer = self._new_consumer()
        partitions: frozenset[int] = frozenset()
        refresh_at = 0.0
        while not closing.is_set():
            try:
                if self._clock.monotonic() >= refresh_at or self._problem is not None:
                    partitions = self._refresh(consumer, partitions)
                    if not partitions:
                        ensure_topic(self._bootstrap, self._topic)
                    refresh_at = self._clock.monotonic() + (REFRESH_SECONDS if partitions else RETRY_SECONDS)
                message = consumer.poll(POLL_SECONDS)
                if message is not None:
                    self._receive(message)
            except KafkaException as error:
                self._fail(str(error.args[0]) if error.args else str(error))
                closing.wait(RETRY_SECONDS)
            except Exception as error:
                logger.exception("the Kafka consumer failed and continues")
                self._fail(str(error))
                closing.wait(RETRY_SECONDS)
        consumer.close()

    def _new_consumer(self) -> Consumer:
        return Consumer(
            {
                **COMMON,
                "bootstrap.servers": self._bootstrap,
                # The client requires it. No group is joined, and no offset is committed.
                "group.id": "configsvc",
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "auto.offset.reset": "latest",
                "fetch.wait.max.ms": 20,
                "allow.auto.create.topics": False,
                "error_cb": self._on_driver_error,
            },
            logger=driver_logger,
        )

    def _refresh(self, consumer: Consumer, assigned: frozenset[int]) -> frozenset[int]:
        """Assigns all partitions of the topic to the consumer, new ones from their ends; returns their numbers."""
        topic = consumer.list_topics(self._topic, timeout=METADATA_SECONDS).topics[self._topic]
        if topic.error is not None and topic.error.code() not in (KafkaError.UNKNOWN_TOPIC_OR_PART,):
            raise KafkaException(topic.error)
        partitions = frozenset(topic.partitions)
        if partitions != assigned:
            ends = [TopicPartition(self._topic, number) for number in sorted(partitions)]
            for end in ends:
                end.offset = consumer.get_watermark_offsets(end, timeout=METADATA_SECONDS)[1]
            consumer.assign(ends)
        if self._problem is not None:
            self._problem = None
            logger.info("the Kafka topic '%s' is read, %d partitions", self._topic, len(partitions))
        if partitions:
            self._on_loop(self._listening.set)
        return partitions

    def _receive(self, message: Message) -> None:
        problem = message.error()
        if problem is not None:
            if problem.code() in (KafkaError._PARTITION_EOF, KafkaError.UNKNOWN_TOPIC_OR_PART):
                return
            raise KafkaException(problem)
        header = dict(message.headers() or ()).get("revision")
        try:
            revision = int(header or b"")
        except (TypeError, ValueError):
            logger.debug("the message at offset %s of '%s' has no revision", message.offset(), self._topic)
            return
        self._on_loop(self._local.announce_revision, revision)

    def _on_driver_error(self, problem: KafkaError) -> None:
        if problem.code() == KafkaError._ALL_BROKERS_DOWN:
            self._fail(problem.str())

    def _fail(self, reason: str) -> None:
        if self._problem is None:
            logger.warning("Kafka is away; the log is polled: %s", reason)
            self._problem = (self._clock.now(), reason)
        else:
            self._problem = (self._problem[0], reason)

    def _on_loop(self, call: Callable[..., object], *arguments: Any) -> None:
        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call, *arguments)
