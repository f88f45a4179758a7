"""The sender over a producer that a test scripts: what it reports of each message."""

import threading
from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from configsvc.bus.kafka.sender import Outgoing, Sender
from tests.app.fake_clock import FakeClock

Callback = Callable[[KafkaError | None, Any], None]
REFUSAL = KafkaError(KafkaError.MSG_SIZE_TOO_LARGE)
FATAL = KafkaError(KafkaError._GAPLESS_GUARANTEE, "can't go on", True)
BATCH_BYTES = 1_000


class ScriptedProducer:
    """Gives one result for each message when it is polled; `fatal_at`: from this message on, `produce` raises."""

    def __init__(self, results: list[KafkaError | None], fatal_at: int | None = None) -> None:
        self._results = results
        self._fatal_at = fatal_at
        self._callbacks: list[Callback] = []
        self.purges = 0

    def produce(self, *_: Any, on_delivery: Callback, **__: Any) -> None:
        if self._fatal_at is not None and len(self._callbacks) >= self._fatal_at:
            raise KafkaException(FATAL)
        self._callbacks.append(on_delivery)

    def poll(self, _: float) -> int:
        if not self._callbacks:
            return 0
        self._callbacks.pop(0)(self._results.pop(0), None)
        return 1

    def purge(self, **_: Any) -> None:
        self.purges += 1


def sender(producer: ScriptedProducer) -> Sender:
    made = Sender("localhost:1", in_order=True, answer_seconds=10, clock=FakeClock())
    made.send("topic", [], BATCH_BYTES, threading.Event())
    made.producer = producer  # type: ignore[assignment]
    return made


def messages(number: int) -> list[Outgoing]:
    return [Outgoing(b"key", b"value", ()) for _ in range(number)]


def test_acknowledged_messages_are_reported_and_the_producer_is_kept() -> None:
    producer = ScriptedProducer([None, None])
    tested = sender(producer)
    report = tested.send("topic", messages(2), BATCH_BYTES, threading.Event())
    assert (report.acknowledged, report.refused, report.problem) == ({0, 1}, {}, "")
    assert tested.producer is not None
    assert producer.purges == 0


def test_refused_message_is_reported_and_the_producer_is_discarded() -> None:
    tested = sender(ScriptedProducer([None, REFUSAL]))
    report = tested.send("topic", messages(2), BATCH_BYTES, threading.Event())
    assert (report.acknowledged, report.refused) == ({0}, {1: REFUSAL})
    assert tested.producer is None


def test_refusal_is_reported_although_it_stops_the_producer_before_all_messages_are_produced() -> None:
    """A broker on a quick line answers before the last message of the batch is queued."""
    tested = sender(ScriptedProducer([None, REFUSAL], fatal_at=2))
    report = tested.send("topic", messages(5), BATCH_BYTES, threading.Event())
    assert (report.acknowledged, report.refused) == ({0}, {1: REFUSAL})
    assert tested.producer is None


def test_producer_that_was_stopped_before_is_a_problem_and_is_discarded() -> None:
    tested = sender(ScriptedProducer([], fatal_at=0))
    report = tested.send("topic", messages(2), BATCH_BYTES, threading.Event())
    assert (report.acknowledged, report.refused, report.problem) == (set(), {}, "can't go on")
    assert tested.producer is None
