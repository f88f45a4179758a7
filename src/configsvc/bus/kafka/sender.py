"""One idempotent producer of librdkafka, which says what became of each message. Its calls block: one thread has it."""

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from configsvc.bus.kafka.topic import COMMON, driver_logger

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.2
# What librdkafka itself takes, before compression.
MESSAGE_BYTES = 64 << 20
# A batch's head, and of each record at most: nine numbers of variable length, and one byte.
BATCH_HEAD_BYTES, RECORD_HEAD_BYTES = 61, 46
# A silence of the broker lasts at most this long before its producer is replaced.
LONGEST_PATIENCE_SECONDS = 240.0

# What a broker says of one batch, and will say each time that it gets it.
SIZE_REFUSALS = frozenset(
    {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE, KafkaError.INVALID_MSG_SIZE}
)
REFUSALS = SIZE_REFUSALS | {KafkaError.INVALID_RECORD, KafkaError.UNSUPPORTED_FOR_MESSAGE_FORMAT}


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message. `value` None: a tombstone."""

    key: bytes
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]

    @property
    def size_bytes(self) -> int:
        """The most that it takes in a batch of its own, before compression."""
        headers = sum(len(name) + len(value) + 10 for name, value in self.headers)
        return BATCH_HEAD_BYTES + RECORD_HEAD_BYTES + len(self.key) + len(self.value or b"") + headers


@dataclass(slots=True)
class Report:
    """What became of messages, by their places. The others may or may not have arrived; `problem` says why."""

    acknowledged: set[int] = field(default_factory=set)
    refused: dict[int, KafkaError] = field(default_factory=dict)
    problem: str = ""


class Sender:
    """A producer, made at the first use and again after anything went wrong with it.

    It is thrown away with all that it still holds, so that nothing of an old batch is sent by it after a newer one.
    `in_order`: a message that is refused stops those behind it, which would overtake it otherwise; without, at most one
    message may be sent at a time.
    """

    def __init__(self, bootstrap: str, *, in_order: bool, answer_seconds: float) -> None:
        self._bootstrap = bootstrap
        self._in_order = in_order
        self._answer_seconds = answer_seconds
        # How long a broker may be silent. It grows while nothing is acknowledged: then a line on which one message
        # takes that long gets it through at last.
        self._patience_seconds = answer_seconds
        self._batch_bytes = 0
        self.producer: Producer | None = None

    def send(self, topic: str, messages: Sequence[Outgoing], batch_bytes: int, stop: threading.Event) -> Report:
        """Sends messages, and returns when all are settled, or nothing more comes of it, or `stop` is set.

        `batch_bytes`: messages share a batch up to this size.
        """
        if batch_bytes != self._batch_bytes:
            self.discard()
            self._batch_bytes = batch_bytes
        sending = _Sending(messages)
        try:
            producer = self._ready()
            sending.produce(producer, topic)
            silent = sending.await_answers(producer, self._patience_seconds, stop)
        except (KafkaException, BufferError) as error:
            sending.report.problem = str(error.args[0]) if error.args else str(error)
            silent = False
        report = sending.report
        # One message that is refused leaves nothing behind it, and a new producer costs half a second.
        is_clean = not self._in_order and len(report.refused) == len(messages)
        if len(report.acknowledged) < len(messages) and not is_clean:
            self.discard(sending)
        if report.acknowledged or report.refused:
            self._patience_seconds = self._answer_seconds
        elif silent:
            report.problem = f"no acknowledgement within {self._patience_seconds:g} s"
            self._patience_seconds = min(2 * self._patience_seconds, LONGEST_PATIENCE_SECONDS)
        return report

    def discard(self, sending: "_Sending | None" = None) -> None:
        """Ends the producer, with all that it still holds."""
        producer, self.producer = self.producer, None
        if producer is None:
            return
        producer.purge()
        try:
            # What is purged is reported, so that nothing calls back later.
            while producer.poll(0):
                pass
        except KafkaException as error:
            logger.debug("the producer ends with: %s", error)
        if sending is not None:
            sending.is_over = True

    def _ready(self) -> Producer:
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
                # The broker's silence is measured here, for all messages together: see `_patience_seconds`.
                "message.timeout.ms": 0,
                "socket.timeout.ms": round(self._patience_seconds * 1000) + 5_000,
                # As the JVM's clients do, so that all agree which partition a key has.
                "partitioner": "murmur2_random",
            }
            self.producer = Producer(settings, logger=driver_logger)
        return self.producer


class _Sending:
    """One call of `send`: what was said of each message."""

    def __init__(self, messages: Sequence[Outgoing]) -> None:
        self._messages = messages
        self._produced = 0
        self.report = Report()
        self._failed = 0
        self._told_at = time.monotonic()
        # Nothing is heard any more: the report is in other hands.
        self.is_over = False

    def produce(self, producer: Producer, topic: str) -> None:
        for place, message in enumerate(self._messages):

            def told(problem: KafkaError | None, _: Message, place: int = place) -> None:
                self._tell(place, problem)

            try:
                producer.produce(topic, message.value, message.key, headers=list(message.headers), on_delivery=told)
            except KafkaException as error:
                if error.args[0].code() not in REFUSALS:
                    raise
                self.report.refused[place] = error.args[0]
                return
            self._produced += 1

    def await_answers(self, producer: Producer, patience_seconds: float, stop: threading.Event) -> bool:
        """Returns True if the broker was silent for too long."""
        purged = False
        while self._outstanding and not stop.is_set():
            if time.monotonic() > self._told_at + patience_seconds:
                return True
            producer.poll(POLL_SECONDS)
            if self._failed and self._outstanding and not purged:
                # Nothing new is sent; what is on its way is waited for.
                producer.purge(in_queue=True, in_flight=False, blocking=True)
                purged = True
        return False

    @property
    def _outstanding(self) -> int:
        return self._produced - len(self.report.acknowledged) - self._failed

    def _tell(self, place: int, problem: KafkaError | None) -> None:
        if self.is_over:
            return
        if problem is None:
            self.report.acknowledged.add(place)
            self._told_at = time.monotonic()
            return
        self._failed += 1
        if problem.code() in REFUSALS:
            self.report.refused[place] = problem
        elif not self.report.problem:
            # The first: what is purged after it says less.
            self.report.problem = problem.str() or problem.name()
