"""Chaos for a minute in the suite; `make chaos` sets another length."""

import os
import random
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.faults import Cluster
from tests.chaos.record import report
from tests.chaos.run import run_chaos
from tests.engines.plugin import PrivateKafka, PrivatePostgres
from tests.engines.valkey import Valkey
from tests.engines.zookeeper import ZooKeeper
from tests.faults.slow_line import SlowLine
from tests.replicas.fleet import fleet

SECONDS = float(os.environ.get("CHAOS_SECONDS") or 60)
SEED = int(os.environ.get("CHAOS_SEED") or random.randrange(1_000_000))


@pytest.mark.timeout(SECONDS + 300)
async def test_guarantees_hold_while_everything_fails(
    private_postgres: PrivatePostgres,
    private_valkey: Callable[[], Valkey],
    private_kafka: PrivateKafka,
    private_zookeeper: Callable[[], ZooKeeper],
    tmp_path: Path,
) -> None:
    with SlowLine() as line:
        postgres, kafka = private_postgres(durable=True), private_kafka(advertised_port=line.port)
        line.server_port = kafka.port
        services = {"postgres": postgres, "valkey": private_valkey(), "kafka": kafka, "zookeeper": private_zookeeper()}
        settings: dict[str, str] = {}
        for service in services.values():
            settings |= service.environment()
        settings |= {"DATABASE_URL": postgres.create_database(), "KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{line.port}"}
        with fleet(tmp_path, settings, "a", "b", "c") as replicas:
            cluster = Cluster(replicas, services, settings, postgres, line)
            histories, violations = await run_chaos(cluster, seed=SEED, seconds=SECONDS)
    text = report(histories, violations, SEED, SECONDS)
    sys.stdout.write(f"{text}\n  logs of the replicas: {tmp_path}\n")
    assert not violations, text
    for history in histories:
        # A run without writes or faults proves nothing.
        assert sum(write.revision is not None for write in history.writes) > 100
        assert history.faults
