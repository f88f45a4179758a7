"""Kafka's limits and the outbox, on the real broker: too large events, slow brokers, missing permissions."""

import asyncio
import json
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from configsvc.app.changelog.outbox.relay import OutboxRelay
from configsvc.bus.kafka.publisher import KafkaPublisher
from configsvc.clock import SystemClock
from configsvc.domain.records import Action, Kind, Ref
from configsvc.storage.postgres.storage import PostgresStorage
from configsvc.storage.sqlite.storage import SqliteStorage
from tests.app.changelog.memory_publisher import change
from tests.conformance.storage.writing import config, put
from tests.engines.plugin import PrivateKafka
from tests.faults.slow_line import SlowLine
from tests.faults.topics import Message, configure, make_topic, messages

# Reached only if a test fails.
PATIENCE_SECONDS = 120.0
# The rate of a broker on a slow line.
SLOW_BYTES_PER_SECOND = 400_000


@pytest.fixture(scope="module")
def bootstrap(private_kafka: PrivateKafka) -> str:
    kafka = private_kafka()
    if not kafka.durable:
        pytest.fail(f"these tests need Apache Kafka, not {kafka.version}")
    return kafka.address


@pytest.fixture(scope="module")
def line(private_kafka: PrivateKafka) -> Iterator[SlowLine]:
    """A slow line to a broker; all clients connect through it."""
    with SlowLine() as line:
        line.server_port = private_kafka(advertised_port=line.port).port
        yield line


@pytest.fixture
def own_topic() -> str:
    return f"test-{secrets.token_hex(6)}"


def text(characters: int) -> str:
    """Text that can't be compressed."""
    return secrets.token_urlsafe(characters)[:characters]


@asynccontextmanager
async def relayed(storage: PostgresStorage | SqliteStorage, publisher: KafkaPublisher) -> AsyncIterator[OutboxRelay]:
    async with publisher, OutboxRelay(outbox=storage, log=storage, publisher=publisher, clock=SystemClock()) as relay:
        yield relay


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 - the relay has no event to wait for
            await asyncio.sleep(0.02)


async def until_published(relay: OutboxRelay, storage: PostgresStorage | SqliteStorage) -> None:
    head = (await storage.state()).head
    await until(lambda: relay.published >= head)


def events(published: list[Message]) -> list[dict[str, object]]:
    return [json.loads(message.value or b"{}") for message in published]


def check_order(published: list[Message]) -> None:
    """Asserts that revisions of one key never decrease, not even by a repetition after a later event."""
    last: dict[str, int] = {}
    for message in published:
        revision = int(message.headers["revision"])
        assert revision >= last.get(message.key, 0), f"{message.key} falls back to {revision}"
        last[message.key] = revision


async def test_too_large_events_do_not_block_and_nothing_is_repeated(
    postgres_url: str, bootstrap: str, own_topic: str
) -> None:
    """Small events, a value just within MAX_VALUE_BYTES and a flag with many users once blocked the relay."""
    make_topic(bootstrap, own_topic, {})
    users = {"targeted_users": [text(22) for _ in range(50_000)]}
    async with PostgresStorage(postgres_url) as storage:
        for number in range(150):
            await storage.write(put(config(f"key-{number % 7}"), text(500)))
            if number % 50 == 20:
                await storage.write(put(config("large"), text(1_048_570)))
                await storage.write(put(Ref(Kind.FLAG, "test", "", "users"), users))
        async with relayed(storage, KafkaPublisher(bootstrap, own_topic)) as relay:
            await until_published(relay, storage)
            assert relay.failure is None
        status = await storage.outbox_status()
    published = await asyncio.to_thread(messages, bootstrap, own_topic)
    assert sorted(int(message.headers["revision"]) for message in published) == list(range(1, 157)), "each event once"
    check_order(published)
    large = [event for event in events(published) if event["key"] in ("large", "users")]
    assert len(large) == 6
    for event in large:
        assert event["value_omitted"] == "too_large"
        assert event["limit_bytes"] == 1_048_588
        assert "value" not in event
    assert all("value" in event for event in events(published) if event not in large)
    assert (status.waiting, status.reduced, status.skipped) == (0, 6, 0)
    assert status.last_loss is not None


async def test_small_events_are_published_under_a_small_limit(
    postgres_url: str, bootstrap: str, own_topic: str
) -> None:
    make_topic(bootstrap, own_topic, {"max.message.bytes": "10240"}, partitions=1)
    async with PostgresStorage(postgres_url) as storage:
        for number in range(200):
            await storage.write(put(config(f"key-{number % 7}"), text(500)))
        async with relayed(storage, KafkaPublisher(bootstrap, own_topic)) as relay:
            await until_published(relay, storage)
    published = await asyncio.to_thread(messages, bootstrap, own_topic)
    assert [int(message.headers["revision"]) for message in published] == list(range(1, 201))


async def test_event_that_compresses_below_the_limit_is_published_whole(bootstrap: str, own_topic: str) -> None:
    make_topic(bootstrap, own_topic, {"max.message.bytes": "10240"})
    async with KafkaPublisher(bootstrap, own_topic) as publisher:
        receipt = await publisher.publish([change(1, "a" * 500_000)])
    assert [delivery.refusal for delivery in receipt.deliveries] == [None]
    (message,) = await asyncio.to_thread(messages, bootstrap, own_topic)
    assert json.loads(message.value or b"")["value"] == "a" * 500_000


async def test_changed_limit_is_noticed(postgres_url: str, bootstrap: str, own_topic: str) -> None:
    """After the limit is lowered, batches are refused. After it is raised, values are published again."""
    make_topic(bootstrap, own_topic, {}, partitions=2)
    async with (
        PostgresStorage(postgres_url) as storage,
        relayed(storage, KafkaPublisher(bootstrap, own_topic)) as relay,
    ):
        await storage.write(put(config("key-0"), text(30_000)))
        await until_published(relay, storage)
        await asyncio.to_thread(configure, bootstrap, own_topic, "max.message.bytes", "10240")
        writing = [storage.write(put(config(f"key-{number % 3}"), text(4_000))) for number in range(60)]
        await asyncio.gather(*writing)
        await storage.write(put(config("key-0"), text(30_000)))
        await until_published(relay, storage)
        assert (await storage.outbox_status()).reduced == 1
        await asyncio.to_thread(configure, bootstrap, own_topic, "max.message.bytes", "1048588")
        await storage.write(put(config("key-0"), text(30_000)))
        await until_published(relay, storage)
        assert (await storage.outbox_status()).reduced == 1
        head = (await storage.state()).head
    published = await asyncio.to_thread(messages, bootstrap, own_topic)
    check_order(published)
    counts = Counter(int(message.headers["revision"]) for message in published)
    assert set(counts) == set(range(1, head + 1))
    assert max(counts.values()) <= 2, "a refused batch repeats each neighbour at most once"


async def test_slow_broker_gets_every_event_once(postgres_url: str, line: SlowLine, own_topic: str) -> None:
    """At the speed of the line: a batch has no time limit as long as acknowledgements arrive."""
    bootstrap = f"127.0.0.1:{line.port}"
    make_topic(bootstrap, own_topic, {})
    async with PostgresStorage(postgres_url) as storage:
        for number in range(10):
            await storage.write(put(config(f"key-{number % 7}"), text(700_000)))
        line.bytes_per_second = SLOW_BYTES_PER_SECOND
        # The time-out is a fraction of the total time, and a little more than the time of one event.
        publisher = KafkaPublisher(bootstrap, own_topic, answer_seconds=2.5)
        async with relayed(storage, publisher) as relay:
            cursors: set[int] = set()
            async with asyncio.timeout(PATIENCE_SECONDS):
                while (status := await storage.outbox_status()).waiting:
                    cursors.add(status.published)
                    await asyncio.sleep(0.1)
            assert relay.published == 10
        assert len(cursors) >= 5, "the cursor moves during the batch"
    line.bytes_per_second = 0
    published = await asyncio.to_thread(messages, bootstrap, own_topic)
    check_order(published)
    counts = Counter(int(message.headers["revision"]) for message in published)
    assert set(counts) == set(range(1, 11))
    assert max(counts.values()) <= 2


async def test_event_slower_than_the_time_out_is_published(line: SlowLine, own_topic: str) -> None:
    """Its producer is replaced, with a longer time-out each time."""
    bootstrap = f"127.0.0.1:{line.port}"
    make_topic(bootstrap, own_topic, {})
    line.bytes_per_second = 100_000
    failures = 0
    async with KafkaPublisher(bootstrap, own_topic, answer_seconds=1) as publisher, asyncio.timeout(PATIENCE_SECONDS):
        while not (receipt := await publisher.publish([change(1, text(300_000))])).deliveries:
            assert receipt.problem is not None
            failures += 1
        assert failures, "the event was not slow"
        # After a fast event the time-out is the first one again.
        line.bytes_per_second = 0
        assert (await publisher.publish([change(2, "small")])).problem is None


async def test_events_wait_and_health_reports_missing_permissions(
    postgres_url: str, private_kafka: PrivateKafka, own_topic: str
) -> None:
    kafka = private_kafka(
        settings={
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "allow.everyone.if.no.acl.found": "true",
        }
    )
    make_topic(kafka.address, own_topic, {})
    admin = AdminClient({"bootstrap.servers": kafka.address})

    def rule(operation: AclOperation, permission: AclPermissionType) -> tuple[Any, ...]:
        return (
            ResourceType.TOPIC,
            own_topic,
            ResourcePatternType.LITERAL,
            "User:ANONYMOUS",
            "*",
            operation,
            permission,
        )

    def make_rules() -> None:
        # A resource with one rule forbids everything that is not allowed.
        allowed = AclBinding(*rule(AclOperation.ALL, AclPermissionType.ALLOW))
        denied = [
            AclBinding(*rule(operation, AclPermissionType.DENY))
            for operation in (AclOperation.WRITE, AclOperation.DESCRIBE_CONFIGS)
        ]
        for done in admin.create_acls([allowed, *denied]).values():
            done.result(PATIENCE_SECONDS)

    def allow_writes() -> None:
        deny_rule = AclBindingFilter(*rule(AclOperation.WRITE, AclPermissionType.DENY))
        assert admin.delete_acls([deny_rule])[deny_rule].result(PATIENCE_SECONDS)

    async with PostgresStorage(postgres_url) as storage:
        await storage.write(put(config("small"), 1))
        await storage.write(put(config("large"), text(1_048_570)))
        # The limit can't be read either: the broker's error codes have to be enough.
        await asyncio.to_thread(make_rules)
        async with relayed(storage, KafkaPublisher(kafka.address, own_topic)) as relay:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while "authorization failed" not in (await storage.outbox_status()).failure.lower():  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            status = await storage.outbox_status()
            assert (status.published, status.reduced, status.skipped) == (0, 0, 0)
            await asyncio.to_thread(allow_writes)
            await until_published(relay, storage)
        status = await storage.outbox_status()
        assert (status.waiting, status.failure, status.reduced) == (0, "", 1)
        assert status.last_loss is not None
        assert status.last_loss.refusal.limit_bytes == 0, "the limit is unknown"


async def test_removal_is_followed_by_a_tombstone_if_configured(bootstrap: str, own_topic: str) -> None:
    make_topic(bootstrap, own_topic, {"cleanup.policy": "compact"}, partitions=1)
    made = (
        change(1, "value", key="coll"),
        change(2, {}, key="coll", kind=Kind.FLAG),
        change(3, None, key="coll", action=Action.DELETE),
    )
    changes = [replace(one, history="first") for one in made]
    async with KafkaPublisher(bootstrap, own_topic, tombstones=True) as publisher:
        receipt = await publisher.publish(changes)
    assert [delivery.change for delivery in receipt.deliveries] == changes
    published = await asyncio.to_thread(messages, bootstrap, own_topic)
    assert [message.key for message in published] == [
        "config/test//coll",
        "flag/test//coll",
        *["config/test//coll"] * 2,
    ]
    assert [message.value is None for message in published] == [False, False, False, True]
    assert {message.headers["schema_version"] for message in published} == {"2"}
    assert {message.headers["history"] for message in published} == {"first"}
    assert published[-1].headers["revision"] == "3"


async def test_plain_keys_have_the_old_format(bootstrap: str, own_topic: str) -> None:
    make_topic(bootstrap, own_topic, {})
    async with KafkaPublisher(bootstrap, own_topic, keys_with_kind=False) as publisher:
        await publisher.publish([change(1, "value", key="coll")])
    (message,) = await asyncio.to_thread(messages, bootstrap, own_topic)
    assert message.key == "test//coll"
