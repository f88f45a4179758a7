"""What `bus/port.py` promises of a `Publisher`: on a Kafka topic, and on the topic in memory of the relay's tests."""

import asyncio
import json
import random
import secrets
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from configsvc.bus.kafka.publisher import KafkaPublisher
from configsvc.bus.port import Publisher
from configsvc.domain.events import Delivery, EventForm
from configsvc.domain.records import Action, Change, Kind
from tests.app.changelog.memory_publisher import MemoryPublisher, change
from tests.faults.topics import make_topic, messages

SCHEMA = json.loads((Path(__file__).parents[3] / "src/configsvc/bus/config-updates.schema.json").read_text())
EVENT_SCHEMA = jsonschema.Draft202012Validator(SCHEMA)
# The schema of the release before `schema_version`. It allows no further members.
FIRST_SCHEMA = jsonschema.Draft202012Validator(
    json.loads(Path(__file__).with_name("config-updates.v1.schema.json").read_text())
)
# Reached only if a test fails.
PATIENCE_SECONDS = 60.0

Events = Callable[[], list[dict[str, Any]]]
Opened = tuple[Publisher, Events]
Open = Callable[[int], Any]


@pytest.fixture(params=["memory", "kafka"])
async def open_topic(request: pytest.FixtureRequest) -> AsyncIterator[Open]:
    """Opens a topic whose messages have at most `limit_bytes`; returns its publisher, and a function that reads it."""
    async with AsyncExitStack() as stack:

        async def memory(limit_bytes: int) -> Opened:
            publisher = MemoryPublisher(limit_bytes, batch_changes=50)
            return publisher, lambda: publisher.events

        async def kafka(limit_bytes: int) -> Opened:
            bootstrap, topic = request.getfixturevalue("kafka_bootstrap"), request.getfixturevalue("topic")
            make_topic(bootstrap, topic, {"max.message.bytes": str(limit_bytes)})
            publisher = await stack.enter_async_context(KafkaPublisher(bootstrap, topic))
            return publisher, lambda: [json.loads(message.value or b"") for message in messages(bootstrap, topic)]

        yield {"memory": memory, "kafka": kafka}[request.param]


async def publish_all(publisher: Publisher, changes: Sequence[Change]) -> list[Delivery]:
    deliveries: list[Delivery] = []
    pending = list(changes)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while pending:
            receipt = await publisher.publish(pending)
            assert receipt.problem is None, receipt.problem
            assert receipt.deliveries, "neither a delivery nor a problem"
            deliveries += receipt.deliveries
            settled = [delivery.change for delivery in receipt.deliveries]
            assert settled == [change for change in pending if change in settled], "not in the given order"
            pending = [change for change in pending if change not in settled]
    return deliveries


def text(characters: int) -> str:
    """A text that can't be compressed."""
    return secrets.token_urlsafe(characters)[:characters]


async def test_all_changes_are_published_once_in_order(open_topic: Open) -> None:
    publisher, events = await open_topic(1_000_000)
    changes = [change(revision, revision, key=f"key-{revision % 7}") for revision in range(1, 201)]
    deliveries = await publish_all(publisher, changes)
    assert [delivery.change for delivery in deliveries] == changes
    assert {delivery.form for delivery in deliveries} == {EventForm.WHOLE}
    assert sorted(event["revision"] for event in events()) == list(range(1, 201))
    for event in events():
        EVENT_SCHEMA.validate(event)
        FIRST_SCHEMA.validate(event)


async def test_small_events_share_batches_within_the_limit(open_topic: Open) -> None:
    publisher, events = await open_topic(10_240)
    deliveries = await publish_all(publisher, [change(revision, text(500)) for revision in range(1, 201)])
    assert {delivery.form for delivery in deliveries} == {EventForm.WHOLE}
    assert [event["revision"] for event in events()] == list(range(1, 201)), (
        "each once and in order, because they have one key"
    )


async def test_event_above_the_limit_is_published_without_its_value(open_topic: Open) -> None:
    publisher, events = await open_topic(10_240)
    changes = [change(1, "small"), change(2, text(20_000), reason="large"), change(3, "small again")]
    whole, reduced, after = await publish_all(publisher, changes)
    assert (whole.form, reduced.form, after.form) == (EventForm.WHOLE, EventForm.WITHOUT_VALUE, EventForm.WHOLE)
    assert whole.loss is after.loss is None
    assert reduced.loss is not None
    first, second, third = events()
    assert [first["revision"], second["revision"], third["revision"]] == [1, 2, 3]
    assert "value" not in second
    assert second["value_omitted"] == "too_large"
    assert second["event_bytes"] == reduced.event_bytes > 20_000
    assert second["limit_bytes"] == 10_240
    assert second["reason"] == "large"
    for event in (first, second, third):
        EVENT_SCHEMA.validate(event)


async def test_event_that_is_still_too_large_is_published_without_its_texts(open_topic: Open) -> None:
    publisher, events = await open_topic(1_000)
    changes = [
        change(1, text(5_000), reason=text(1_000)),
        change(2, None, reason=text(1_000), action=Action.DELETE),
        change(3, "small"),
    ]
    deliveries = await publish_all(publisher, changes)
    assert [delivery.form for delivery in deliveries] == [EventForm.BARE, EventForm.BARE, EventForm.WHOLE]
    written, removed, _ = events()
    assert written["value_omitted"] == written["texts_omitted"] == removed["texts_omitted"] == "too_large"
    assert "value_omitted" not in removed, "a removal has no value"
    assert written["reason"] == removed["reason"] == removed["actor"] == ""
    for event in events():
        EVENT_SCHEMA.validate(event)


async def test_event_that_never_fits_is_skipped_and_delays_no_other(open_topic: Open) -> None:
    publisher, events = await open_topic(1_000)
    deliveries = await publish_all(publisher, [change(1, 1), change(2, 2, key=text(2_000)), change(3, 3)])
    assert [delivery.form for delivery in deliveries] == [EventForm.WHOLE, EventForm.SKIPPED, EventForm.WHOLE]
    assert deliveries[1].loss is not None
    assert [event["revision"] for event in events()] == [1, 3]


@pytest.mark.parametrize("seed", range(3))
async def test_events_of_any_sizes_are_published_in_order_in_their_largest_possible_form(
    open_topic: Open, seed: int
) -> None:
    publisher, events = await open_topic(10_240)
    rng = random.Random(seed)
    sizes = [0, 10, 500, 9_000, 9_800, 10_100, 10_400, 30_000]
    changes = []
    for revision in range(1, 121):
        for ordinal in range(rng.choice((1, 1, 1, 4))):
            size = rng.choice(sizes)
            kind, key = rng.choice(list(Kind)), f"key-{rng.randrange(5)}"
            changes.append(change(revision, text(size), ordinal=ordinal, kind=kind, key=key, reason=text(size % 900)))
    deliveries = await publish_all(publisher, changes)
    assert len(deliveries) == len(changes)
    seen: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    for event in events():
        seen[event["kind"], event["key"]].append((event["revision"], event["ordinal"]))
        EVENT_SCHEMA.validate(event)
    assert sorted(place for places in seen.values() for place in places) == [(c.revision, c.ordinal) for c in changes]
    for places in seen.values():
        assert places == sorted(places)
    for delivery in deliveries:
        size = len(json.dumps(delivery.change.after)) + len(delivery.change.reason)
        if size < 9_500:
            assert delivery.form is EventForm.WHOLE
        if size > 10_500:
            assert delivery.form is EventForm.WITHOUT_VALUE
