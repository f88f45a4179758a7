"""Kafka failures: a dead producer, a broker that lost its state, a topic that is deleted or changed while in use."""

import asyncio
import logging
import secrets
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import NewPartitions  # type: ignore[attr-defined]

from configsvc.app.changelog.outbox.relay import OutboxRelay
from configsvc.bus.kafka.publisher import KafkaPublisher
from configsvc.bus.kafka.topic import PARTITIONS
from configsvc.clock import SystemClock
from configsvc.domain.records import Action, Change, Kind, Ref
from configsvc.storage.postgres.storage import PostgresStorage
from tests.conformance.storage.writing import config, put
from tests.engines.kafka import Kafka
from tests.engines.service_set import ServiceSet
from tests.faults.poison import poison
from tests.faults.topics import make_topic
from tests.replicas.conftest import events, own_settings
from tests.replicas.fleet import Replica, eventually, fleet
from tests.replicas.test_replicas import Watcher

WRITES, KEYS, POISONINGS = 400, 7, 6
# Reached only if a test fails.
PATIENCE_SECONDS = 60.0
AT = datetime(2025, 1, 1, tzinfo=UTC)


def check_published(published: Sequence[Mapping[str, Any]], revisions: set[int]) -> None:
    """Asserts that each revision was published at least once, no other was, and those of each key are in order."""
    by_key: dict[str, list[int]] = defaultdict(list)
    for event in published:
        if event["revision"] not in by_key[event["key"]]:
            by_key[event["key"]].append(event["revision"])
    assert {revision for order in by_key.values() for revision in order} == revisions
    for key, order in by_key.items():
        assert order == sorted(order), f"the events of '{key}' are out of order"


async def another_producer(publisher: KafkaPublisher, known: list[Producer]) -> Producer:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            producer = publisher.producer
            if producer is not None and producer not in known:
                return producer
            await asyncio.sleep(0.005)


async def test_every_change_is_published_although_producers_die_repeatedly(
    postgres_url: str, kafka_bootstrap: str, topic: str
) -> None:
    poisoned: list[Producer] = []
    over = asyncio.Event()
    async with (
        PostgresStorage(postgres_url) as storage,
        KafkaPublisher(kafka_bootstrap, topic) as publisher,
        OutboxRelay(outbox=storage, log=storage, publisher=publisher, clock=SystemClock()) as relay,
    ):

        async def write(writer: int) -> None:
            number = 0
            while not over.is_set() or number < WRITES / KEYS:
                await storage.write(put(config(f"key-{writer}"), number))
                number += 1

        writing = [asyncio.create_task(write(writer)) for writer in range(KEYS)]
        for _ in range(POISONINGS):
            producer = await another_producer(publisher, poisoned)
            poison(producer)
            poisoned.append(producer)
        over.set()
        await asyncio.gather(*writing)
        head = (await storage.state()).head
        async with asyncio.timeout(PATIENCE_SECONDS):
            while relay.published < head:  # noqa: ASYNC110 - it has no event to wait for
                await asyncio.sleep(0.01)
        assert relay.failure is None
        assert publisher.producer not in poisoned
    settings = {"KAFKA_BOOTSTRAP_SERVERS": kafka_bootstrap, "KAFKA_TOPIC_CONFIG_UPDATES": topic}
    check_published(await asyncio.to_thread(events, settings, head), set(range(1, head + 1)))


def change(revision: int) -> Change:
    """A change of one key, so that all are in one partition."""
    ref = Ref(Kind.CONFIG, "test", "svc", "key")
    return Change(revision, 0, ref, Action.UPDATE, revision, None, {"value": revision}, 0, AT, "tester", "", "", AT)


async def publish(publisher: KafkaPublisher, revisions: range) -> int:
    """Publishes all of them; returns the number of failures."""
    waiting = [change(revision) for revision in revisions]
    failures = 0
    async with asyncio.timeout(PATIENCE_SECONDS):
        while waiting:
            receipt = await publisher.publish(waiting)
            settled = [delivery.change for delivery in receipt.deliveries]
            waiting = [change for change in waiting if change not in settled]
            failures += receipt.problem is not None
    return failures


async def test_next_producer_publishes_after_a_broker_lost_the_state_of_the_last(
    private_kafka: Callable[[], Kafka], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The broker's disk is set back, as by a snapshot or an unclean election: it expects older sequence numbers."""
    kafka = private_kafka()
    data = kafka.process.log_file.parent / "data"
    topic = f"test-{secrets.token_hex(6)}"
    async with KafkaPublisher(kafka.address, topic) as publisher:
        await publish(publisher, range(1, 11))
        await asyncio.to_thread(kafka.stop)
        if kafka.durable:
            shutil.copytree(data, tmp_path / "data")
        await asyncio.to_thread(kafka.start)
        # Twice: the broker takes the next batch for a repetition of one of the last batches that it knows.
        await publish(publisher, range(11, 16))
        await publish(publisher, range(16, 21))
        before = publisher.producer
        await asyncio.to_thread(kafka.kill)
        if kafka.durable:
            shutil.rmtree(data)
            shutil.copytree(tmp_path / "data", data)
        await asyncio.to_thread(kafka.start)
        assert await publish(publisher, range(21, 31)), "the broker accepted them at the first attempt"
        assert publisher.producer is not before
        fatal = [record for record in caplog.records if record.levelno == logging.CRITICAL]
        assert "out of order sequence number" in fatal[0].getMessage(), "another fault than the intended one occurred"
    settings = {"KAFKA_BOOTSTRAP_SERVERS": kafka.address, "KAFKA_TOPIC_CONFIG_UPDATES": topic}
    published = await asyncio.to_thread(events, settings, 30)
    # Acknowledged events that the broker lost are gone. No event that was published later is missing.
    kept = range(1, 11) if kafka.durable else range(0)
    check_published(published, {*kept, *range(21, 31)})


@pytest.fixture
def settings(services: ServiceSet) -> Iterator[dict[str, str]]:
    with own_settings(services) as own:
        yield own


def stored(settings: Mapping[str, str]) -> int | None:
    """The number of events on the topic; None if there is no topic."""
    topic = settings["KAFKA_TOPIC_CONFIG_UPDATES"]
    consumer = Consumer({"bootstrap.servers": settings["KAFKA_BOOTSTRAP_SERVERS"], "group.id": secrets.token_hex(4)})
    try:
        metadata = consumer.list_topics(timeout=30).topics.get(topic)
        if metadata is None:
            return None
        places = [TopicPartition(topic, number) for number in metadata.partitions]
        return sum(consumer.get_watermark_offsets(place, timeout=30)[1] for place in places)
    finally:
        consumer.close()


def put_some(replicas: list[Replica], count: int) -> list[int]:
    return [replicas[number % 2].put(f"key-{number % KEYS}", number).revision for number in range(count)]


def test_deleted_topic_is_created_again_and_misses_nothing_from_then_on(
    services: ServiceSet, settings: dict[str, str], tmp_path: Path
) -> None:
    topic = settings["KAFKA_TOPIC_CONFIG_UPDATES"]
    with fleet(tmp_path, settings, "a", "b") as replicas:
        watchers = [Watcher(replica) for replica in replicas]
        before = put_some(replicas, 10)
        events(settings, before[-1])
        for _ in range(2):
            services.kafka.delete_topic(topic)
            # An empty topic is a new one.
            eventually(lambda: not stored(settings), "the topic is gone")
            after = put_some(replicas, 30)
            eventually(lambda: topic in services.kafka.admin().list_topics(timeout=30).topics, "it is created again")
            check_published(events(settings, after[-1]), set(after))
        eventually(lambda: [r.failures() for r in replicas] == [[], []], "all are up")
        partitions = services.kafka.admin().list_topics(timeout=30).topics[topic].partitions
        assert len(partitions) == PARTITIONS
        streams = [watcher.until(after[-1]) for watcher in watchers]
        assert [revision for revision, _, _ in streams[0]] == list(range(before[0], after[-1] + 1))
        assert streams[0] == streams[1]
        for watcher in watchers:
            watcher.end()


def test_topic_with_one_partition_is_used_as_it_is_and_can_grow(
    services: ServiceSet, settings: dict[str, str], tmp_path: Path
) -> None:
    topic = settings["KAFKA_TOPIC_CONFIG_UPDATES"]
    services.kafka.create_topic(topic, partitions=1)
    with fleet(tmp_path, settings, "a", "b") as replicas:
        first = put_some(replicas, 20)
        check_published(events(settings, first[-1]), set(first))
        admin = services.kafka.admin()
        admin.create_partitions([NewPartitions(topic, 4)])[topic].result(PATIENCE_SECONDS)
        second = put_some(replicas, 40)
        # A key may have moved to another partition: only the order within each partition holds.
        published = events(settings, second[-1])
        assert {event["revision"] for event in published} == {*first, *second}
        assert [replica.failures() for replica in replicas] == [[], []]


def test_backlog_is_reported_while_the_publishing_replica_is_paused(
    services: ServiceSet, settings: dict[str, str], tmp_path: Path
) -> None:
    """The other replica reads the backlog from the store. The database ends the lease of the paused one; the other publishes."""
    make_topic(services.kafka.address, settings["KAFKA_TOPIC_CONFIG_UPDATES"], {})
    with fleet(tmp_path, settings, "a") as (first,):
        # A replica that has published holds the lease.
        events(settings, put_some([first, first], 3)[-1])
        with fleet(tmp_path, settings, "b") as (second,):
            first.pause()
            last = [second.put(f"key-{number}", number).revision for number in range(5)][-1]
            eventually(
                lambda: "5 changes waiting, the oldest since 20" in second.component("bus").detail, "health reports it"
            )
            eventually(lambda: second.component("bus").state == "degraded", "they are late")
            assert "5 changes waiting, the oldest since 20" in second.component("bus").detail
            check_published(events(settings, last), set(range(1, last + 1)))
            eventually(lambda: not second.failures(), "all are up")
            first.resume()
            eventually(lambda: not first.failures(), "the other replica is up, too")


def test_every_replica_reports_a_too_large_event_with_a_remedy(
    services: ServiceSet, settings: dict[str, str], tmp_path: Path
) -> None:
    topic = settings["KAFKA_TOPIC_CONFIG_UPDATES"]
    make_topic(services.kafka.address, topic, {"max.message.bytes": "10240"})
    with fleet(tmp_path, settings, "a", "b") as replicas:
        large = secrets.token_urlsafe(20_000)
        head = [replica.put(f"large-{replica.name}", large).revision for replica in replicas][-1]
        published = events(settings, head)
        assert [event["value_omitted"] for event in published] == ["too_large"] * 2
        # The cursor moves after the acknowledgement.
        report = f"2 events were published incomplete, 0 not at all; the last: revision {head} (config test/large-b)"
        eventually(
            lambda: [report in replica.component("bus").detail for replica in replicas] == [True] * 2, "both report it"
        )
        assert ["max.message.bytes" in replica.component("bus").detail for replica in replicas] == [True] * 2
        assert [replica.failures() for replica in replicas] == [[], []]
