"""An idempotent producer of librdkafka that reports the result of each message. Its calls block, so one thread uses it."""

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from configsvc.bus.kafka.topic import COMMON, driver_logger
from configsvc.clock import Clock, SystemClock

logger = logging.getLogger(__name__)

_SYSTEM_CLOCK = SystemClock()

POLL_SECONDS = 0.2
# The limit of librdkafka itself, before compression.
MESSAGE_BYTES = 64 << 20
# The header of a batch, and the largest header of a record: nine numbers of variable length, and one byte.
BATCH_HEADER_BYTES, RECORD_HEADER_BYTES = 61, 46
# The longest time without an answer before the producer is replaced.
LONGEST_TIMEOUT_SECONDS = 240.0

# The errors with which a broker refuses one batch, each time that it is sent.
SIZE_REFUSALS = frozenset(
    {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE, KafkaError.INVALID_MSG_SIZE}
)
REFUSALS = SIZE_REFUSALS | {KafkaError.INVALID_RECORD, KafkaError.UNSUPPORTED_FOR_MESSAGE_FORMAT}


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message; without a value, it is a tombstone."""

    key: bytes
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]

    @property
    def size_bytes(self) -> int:
        """Its largest size in a batch of its own, before compression."""
        headers = sum(len(name) + len(value) + 10 for name, value in self.headers)
        return BATCH_HEADER_BYTES + RECORD_HEADER_BYTES + len(self.key) + len(self.value or b"") + headers


@dataclass(slots=True)
class Report:
    """The results of messages, by index. The other messages may have arrived or not; `problem` says why."""

    acknowledged: set[int] = field(default_factory=set)
    refused: dict[int, KafkaError] = field(default_factory=dict)
    problem: str = ""


class Sender:
    """Creates its producer at the first use, and again after every failure.

    A failed producer is discarded with the messages that it still holds, so that no message of an old batch is sent
    after those of a newer one. `in_order`: a refused message stops those behind it, which would overtake it otherwise.
    Without `in_order`, only one message may be sent at a time.
    """

    def __init__(self, bootstrap: str, *, in_order: bool, answer_seconds: float, clock: Clock = _SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._bootstrap = bootstrap
        self._in_order = in_order
        self._answer_seconds = answer_seconds
        # How long the broker may send no answer. It grows while nothing is acknowledged, so that a message that takes
        # longer on a slow line gets through eventually.
        self._timeout_seconds = answer_seconds
        self._batch_bytes = 0
        self.producer: Producer | None = None

    def send(self, topic: str, messages: Sequence[Outgoing], batch_bytes: int, stop: threading.Event) -> Report:
        """Sends messages. Returns when each is acknowledged or refused, when no answer comes, or when `stop` is set.

        `batch_bytes`: the largest batch of messages.
        """
        if batch_bytes != self._batch_bytes:
            self.discard()
            self._batch_bytes = batch_bytes
        sending = _Sending(messages, self._clock)
        try:
            producer = self._producer()
            sending.produce(producer, topic)
            timed_out = sending.await_answers(producer, self._timeout_seconds, stop)
        except (KafkaException, BufferError) as error:
            sending.report.problem = str(error.args[0]) if error.args else str(error)
            timed_out = False
        report = sending.report
        # After the refusal of a single message the producer is empty. A new one would cost half a second.
        is_empty = not self._in_order and len(report.refused) == len(messages)
        if len(report.acknowledged) < len(messages) and not is_empty:
            self.discard(sending)
        if report.acknowledged or report.refused:
            self._timeout_seconds = self._answer_seconds
        elif timed_out:
            report.problem = f"no acknowledgement within {self._timeout_seconds:g} s"
            self._timeout_seconds = min(2 * self._timeout_seconds, LONGEST_TIMEOUT_SECONDS)
        return report

    def discard(self, sending: "_Sending | None" = None) -> None:
        """Discards the producer with the messages that it still holds."""
        producer, self.producer = self.producer, None
        if producer is None:
            return
        producer.purge()
        try:
            # Purged messages are reported now, so that there are no callbacks later.
            while producer.poll(0):
                pass
        except KafkaException as error:
            logger.debug("the discarded producer failed: %s", error)
        if sending is not None:
            sending.is_over = True

    def _producer(self) -> Producer:
        if self.producer is None:
            settings: dict[str, Any] = {
                **COMMON,
                "bootstrap.servers": self._bootstrap,
                "enable.idempotence": True,
                "enable.gapless.guarantee": self._in_order,
                "acks": "all",
                "compression.type": "lz4",
                "linger.ms": 1,
                "batch.size": self._batch_bytes,
                "message.max.bytes": MESSAGE_BYTES,
                # `await_answers` has the timeout, one for all messages: see `_timeout_seconds`.
                "message.timeout.ms": 0,
                "socket.timeout.ms": round(self._timeout_seconds * 1000) + 5_000,
                # The partitioner of the JVM clients, so that all clients use the same partition for a key.
                "partitioner": "murmur2_random",
            }
            self.producer = Producer(settings, logger=driver_logger)
        return self.producer


class _Sending:
    """One call of `send`: collects the results of its messages."""

    def __init__(self, messages: Sequence[Outgoing], clock: Clock) -> None:
        self._clock = clock
        self._messages = messages
        self._produced = 0
        self.report = Report()
        self._failed = 0
        self._answered_at = clock.monotonic()
        # The caller has the report; later results are ignored.
        self.is_over = False

    def produce(self, producer: Producer, topic: str) -> None:
        for index, message in enumerate(self._messages):

            def on_delivery(problem: KafkaError | None, _: Message, index: int = index) -> None:
                self._add_result(index, problem)

            try:
                producer.produce(
                    topic, message.value, message.key, headers=list(message.headers), on_delivery=on_delivery
                )
            except KafkaException as error:
                problem = error.args[0]
                if problem.code() in REFUSALS:
                    self.report.refused[index] = problem
                elif problem.fatal():
                    # The broker has already refused an earlier message of this call, and that has stopped the producer.
                    # Its result, which says which message and why, is still to be polled.
                    self.report.problem = problem.str()
                else:
                    raise
                return
            self._produced += 1

    def await_answers(self, producer: Producer, timeout_seconds: float, stop: threading.Event) -> bool:
        """Returns whether the broker sent no answer for too long."""
        purged = False
        while self._outstanding and not stop.is_set():
            if self._clock.monotonic() > self._answered_at + timeout_seconds:
                return True
            producer.poll(POLL_SECONDS)
            if self._failed and self._outstanding and not purged:
                # Messages that were not sent yet are dropped. Those in flight are waited for.
                producer.purge(in_queue=True, in_flight=False, blocking=True)
                purged = True
        return False

    @property
    def _outstanding(self) -> int:
        return self._produced - len(self.report.acknowledged) - self._failed

    def _add_result(self, index: int, problem: KafkaError | None) -> None:
        if self.is_over:
            return
        if problem is None:
            self.report.acknowledged.add(index)
            self._answered_at = self._clock.monotonic()
            return
        self._failed += 1
        if problem.code() in REFUSALS:
            self.report.refused[index] = problem
        elif not self.report.problem:
            # The first problem is the cause; purged messages fail after it.
            self.report.problem = problem.str() or problem.name()
