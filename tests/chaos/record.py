"""Reads what a run left behind, the log and the topic, and reports its numbers."""

import json
import secrets
from collections.abc import Mapping

from configsvc_client.v1 import change_pb2, change_pb2_grpc
from confluent_kafka import Consumer, TopicPartition

from tests.chaos.history import History, LoggedChange
from tests.replicas.fleet import ENVIRONMENT


async def read_log(stub: change_pb2_grpc.ChangeServiceStub, history: History) -> None:
    """Reads the log from the first write of this half on, through the audit trail."""
    token = ""
    while True:
        request = change_pb2.ListChangesRequest(
            page_size=1_000, page_token=token, after_revision=history.first_revision - 1
        )
        page = await stub.ListChanges(request, timeout=30)  # type: ignore[misc]
        for change in page.changes:
            history.revisions.add(change.revision)
            if (change.kind, change.environment) == ("config", ENVIRONMENT):
                value = int(change.after.fields["value"].number_value) if change.HasField("after") else None
                history.log.append(LoggedChange(change.revision, change.key, value))
        token = page.next_page_token
        if not token:
            break
    history.log.reverse()


def read_topic(settings: Mapping[str, str], history: History) -> None:
    """Reads the topic until every revision was found, or no more messages come."""
    topic = settings.get("KAFKA_TOPIC_CONFIG_UPDATES", "config-updates")
    consumer = Consumer(
        {
            "bootstrap.servers": settings["KAFKA_BOOTSTRAP_SERVERS"],
            "group.id": secrets.token_hex(4),
            "enable.auto.commit": False,
        }
    )
    try:
        partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
        consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
        missing = set(history.revisions)
        while missing and (message := consumer.poll(10)) is not None:
            if message.error() is None:
                event = json.loads(message.value() or b"")
                key = f"{event['kind']}/{event['environment']}/{event['service']}/{event['key']}"
                history.published.setdefault(key, []).append(event["revision"])
                missing.discard(event["revision"])
    finally:
        consumer.close()


def report(histories: list[History], violations: list[str], seed: int, seconds: float) -> str:
    """The numbers of a run, in a few lines."""
    lines = [f"chaos: seed {seed}, {seconds:g} s of faults; the backup from the start is restored in the middle"]
    for history in histories:
        acknowledged = sum(write.revision is not None for write in history.writes)
        lines += [
            f"  operations: {len(history.writes)} writes ({acknowledged} acknowledged), {len(history.reads)} reads"
            f" ({sum(read.is_stale for read in history.reads)} stale), {len(history.discovered)} discover answers,"
            f" {sum(len(w.received) for w in history.watchers)} changes at {len(history.watchers)} watchers"
            f" ({sum(w.resumed for w in history.watchers)} resumed)",
            f"  faults: {len(history.faults)}: {', '.join(history.faults)}",
            f"  calls that failed: {history.refusals or 'none'}",
        ]
    return "\n".join([*lines, f"  violations: {len(violations)}", *(f"    {line}" for line in violations[:20])])
