"""Publishes events to a Kafka topic.

There are two producers, of which one sends at a time. One sends batches. If the broker refuses an event of a batch, the
producer stops, because the events behind it would overtake it. The other producer sends single events: those that may
be refused, and the smaller forms of those that were.
"""

import asyncio
import json
import logging
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

from confluent_kafka import KafkaError, KafkaException, Producer

from configsvc.bus.kafka.sender import SIZE_REFUSALS, Outgoing, Report, Sender
from configsvc.bus.kafka.topic import ensure_topic, read_limit_bytes
from configsvc.bus.port import Receipt
from configsvc.clock import Clock, SystemClock
from configsvc.domain.events import (
    SCHEMA_VERSION,
    Delivery,
    EventForm,
    Refusal,
    RefusalReason,
    event_key,
    event_of,
    forms_of,
)
from configsvc.domain.records import Change
from configsvc.errors import Unavailable

logger = logging.getLogger(__name__)

# The batch of one call of `publish`. It fills requests to all partitions, and takes 2.6 s on a line of 400 KB/s.
BATCH_CHANGES, BATCH_BYTES = 500, 1 << 20
# Kafka's default, used if the topic's limit can't be read.
STOCK_LIMIT_BYTES = 1_048_588
# The limit is read again after this long; after the second, if the broker has refused an event.
LIMIT_SECONDS, REFUSED_LIMIT_SECONDS = 60.0, 1.0

Batch = list[tuple[Change, list[Outgoing]]]

_SYSTEM_CLOCK = SystemClock()


class KafkaPublisher:
    """A broker that sends no answer for `answer_seconds` has failed; see `Sender` for how that time grows.

    - `keys_with_kind`: if False, events have the keys of schema version 1.
    - `tombstones`: a removal is followed by a message without a value, for compacted topics.
    """

    def __init__(
        self,
        bootstrap: str,
        topic: str,
        *,
        keys_with_kind: bool = True,
        tombstones: bool = False,
        answer_seconds: float = 10.0,
        clock: Clock = _SYSTEM_CLOCK,
    ) -> None:
        self._clock = clock
        self._bootstrap = bootstrap
        self._topic = topic
        self._keys_with_kind = keys_with_kind
        self._tombstones = tombstones
        self._batches = Sender(bootstrap, in_order=True, answer_seconds=answer_seconds, clock=clock)
        self._singles = Sender(bootstrap, in_order=False, answer_seconds=answer_seconds, clock=clock)
        self._topic_exists = False
        # 0 if it could not be read yet.
        self._limit_bytes = 0
        self._limit_problem: int | None = None
        self._limit_read_at = clock.monotonic() - LIMIT_SECONDS
        # The events that were refused in a batch, and are sent alone now.
        self._refused_in_batch: set[tuple[int, int]] = set()
        self._thread = ThreadPoolExecutor(1, "kafka-publisher")
        self._stop = threading.Event()

    @property
    def producer(self) -> Producer | None:
        """The producer that sends batches."""
        return self._batches.producer

    async def publish(self, changes: Sequence[Change]) -> Receipt:
        self._stop = stop = threading.Event()
        publishing = asyncio.get_running_loop().run_in_executor(self._thread, self._publish, changes, stop)
        try:
            return await asyncio.shield(publishing)
        except asyncio.CancelledError:
            stop.set()
            # The thread gives up the batch within POLL_SECONDS, before it takes another one.
            await asyncio.gather(publishing, return_exceptions=True)
            raise

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.submit(self._discard)
        self._thread.shutdown(wait=False)

    def _discard(self) -> None:
        self._batches.discard()
        self._singles.discard()

    def _publish(self, changes: Sequence[Change], stop: threading.Event) -> Receipt:
        receipt = self._publish_first(changes, stop)
        if receipt.problem is not None:
            # The topic may have been deleted.
            self._topic_exists = False
        return receipt

    def _publish_first(self, changes: Sequence[Change], stop: threading.Event) -> Receipt:
        try:
            if not self._topic_exists:
                ensure_topic(self._bootstrap, self._topic)
                self._topic_exists = True
        except KafkaException as error:
            return Receipt((), _unavailable(error.args[0]))
        self._read_limit()
        batch = self._batch(changes)
        if batch:
            receipt = self._publish_batch(batch, stop)
            if receipt.deliveries or receipt.problem is not None:
                return receipt
        return self._publish_alone(changes[0], stop)

    def _batch(self, changes: Sequence[Change]) -> Batch:
        """The messages of the first changes, up to the first one that has to be sent alone."""
        batch: Batch = []
        size_bytes = 0
        for change in changes[:BATCH_CHANGES]:
            messages = [self._event(change), *self._tombstone(change)]
            size_bytes += sum(message.size_bytes for message in messages)
            is_sent_alone = _position(change) in self._refused_in_batch or messages[0].size_bytes > self._max_bytes
            if is_sent_alone or (batch and size_bytes > BATCH_BYTES):
                break
            batch.append((change, messages))
        return batch

    def _publish_batch(self, batch: Batch, stop: threading.Event) -> Receipt:
        messages = [message for _, messages in batch for message in messages]
        owners = [change for change, messages in batch for _ in messages]
        report = self._batches.send(self._topic, messages, self._max_bytes, stop)
        unacknowledged = {_position(owner) for index, owner in enumerate(owners) if index not in report.acknowledged}
        if report.refused:
            self._refused_in_batch |= {_position(owners[index]) for index in report.refused}
            # The limit was lowered, or could not be read.
            self._read_limit(after_refusal=True)
        deliveries = [
            Delivery(change, EventForm.WHOLE, _event_bytes(messages[0]))
            for change, messages in batch
            if _position(change) not in unacknowledged
        ]
        return Receipt(deliveries, None if report.refused else _problem(report, stop, bool(unacknowledged)))

    def _publish_alone(self, change: Change, stop: threading.Event) -> Receipt:
        """Tries each form. A refusal of an event that is sent alone is permanent."""
        refusal: Refusal | None = None
        whole_bytes = 0
        for form in forms_of(change):
            if form is EventForm.SKIPPED:
                break
            message = self._event(change, form, refusal)
            whole_bytes = whole_bytes or _event_bytes(message)
            report = self._singles.send(self._topic, [message], self._max_bytes, stop)
            if report.acknowledged:
                break
            if not report.refused:
                return Receipt((), _problem(report, stop, True))
            self._read_limit(after_refusal=True)
            reason = RefusalReason.TOO_LARGE if report.refused[0].code() in SIZE_REFUSALS else RefusalReason.REFUSED
            refusal = Refusal(reason, whole_bytes, self._limit_bytes)
            logger.debug("%s is refused %s: %s", _position(change), form.value, report.refused[0].str())
        for tombstone in self._tombstone(change):
            report = self._singles.send(self._topic, [tombstone], self._max_bytes, stop)
            if not report.acknowledged and not report.refused:
                return Receipt((), _problem(report, stop, True))
        self._refused_in_batch.discard(_position(change))
        return Receipt((Delivery(change, form, whole_bytes, refusal),))

    @property
    def _max_bytes(self) -> int:
        return self._limit_bytes or STOCK_LIMIT_BYTES

    def _read_limit(self, *, after_refusal: bool = False) -> None:
        now = self._clock.monotonic()
        valid_seconds = REFUSED_LIMIT_SECONDS if after_refusal else LIMIT_SECONDS
        if now < self._limit_read_at + valid_seconds:
            return
        self._limit_read_at = now
        try:
            limit_bytes = read_limit_bytes(self._bootstrap, self._topic)
        except KafkaException as error:
            # Perhaps this client may not read it. The broker's answers to what is sent are enough.
            problem = error.args[0]
            if problem.code() != self._limit_problem:
                logger.warning("the limit of the topic '%s' can't be read: %s", self._topic, problem)
                self._limit_problem = problem.code()
            return
        if limit_bytes != self._limit_bytes:
            logger.info("the topic '%s' takes messages of up to %d bytes", self._topic, limit_bytes)
        self._limit_bytes, self._limit_problem = limit_bytes, None

    def _event(self, change: Change, form: EventForm = EventForm.WHOLE, refusal: Refusal | None = None) -> Outgoing:
        event = event_of(change, form, refusal)
        return Outgoing(self._key(change), _encoded(event), self._headers(change))

    def _tombstone(self, change: Change) -> Sequence[Outgoing]:
        if not self._tombstones or change.after is not None:
            return ()
        return (Outgoing(self._key(change), None, self._headers(change)),)

    def _key(self, change: Change) -> bytes:
        return event_key(change, with_kind=self._keys_with_kind).encode("utf-8", "replace")

    def _headers(self, change: Change) -> tuple[tuple[str, bytes], ...]:
        return (
            ("revision", str(change.revision).encode()),
            ("kind", change.ref.kind.value.encode()),
            ("schema_version", str(SCHEMA_VERSION).encode()),
            ("history", change.history.encode()),
        )


def _position(change: Change) -> tuple[int, int]:
    return change.revision, change.ordinal


def _encoded(event: dict[str, Any]) -> bytes:
    try:
        return json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        # An earlier release accepted lone surrogates. JSON can hold them as escapes.
        return json.dumps(event, separators=(",", ":")).encode()


def _event_bytes(message: Outgoing) -> int:
    return len(message.value or b"")


def _problem(report: Report, stop: threading.Event, is_incomplete: bool) -> Unavailable | None:
    if not is_incomplete:
        return None
    return _unavailable(report.problem or ("it is stopping" if stop.is_set() else "no acknowledgement"))


def _unavailable(cause: KafkaError | str) -> Unavailable:
    return Unavailable(f"Kafka does not take events: {cause}", "BUS_UNAVAILABLE")
