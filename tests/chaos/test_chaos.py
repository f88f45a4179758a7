"""A minute of chaos in the suite; as long as asked by `make chaos`."""

import os
import random
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.run import report, run_chaos
from tests.replicas.fleet import fleet
from tests.services.kafka import Kafka
from tests.services.postgres import Postgres
from tests.services.valkey import Valkey
from tests.services.zookeeper import ZooKeeper

SECONDS = float(os.environ.get("CHAOS_SECONDS") or 60)
SEED = int(os.environ.get("CHAOS_SEED") or random.randrange(1_000_000))


@pytest.mark.timeout(SECONDS + 240)
async def test_no_promise_is_broken_while_everything_else_is(
    private_postgres: Callable[..., Postgres],
    private_valkey: Callable[[], Valkey],
    private_kafka: Callable[[], Kafka],
    private_zookeeper: Callable[[], ZooKeeper],
    tmp_path: Path,
) -> None:
    services = {
        "postgres": private_postgres(durable=True),
        "valkey": private_valkey(),
        "kafka": private_kafka(),
        "zookeeper": private_zookeeper(),
    }
    settings: dict[str, str] = {}
    for service in services.values():
        settings |= service.environment()
    with fleet(tmp_path, settings, "a", "b", "c") as replicas:
        history, found = await run_chaos(replicas, services, settings, seed=SEED, seconds=SECONDS)
    text = report(history, found, SEED, SECONDS)
    sys.stdout.write(f"{text}\n  logs of the replicas: {tmp_path}\n")
    assert not found, text
    # A run in which nothing was done, or nothing broken, shows nothing.
    assert sum(write.revision is not None for write in history.writes) > 100
    assert history.faults
