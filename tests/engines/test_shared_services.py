"""The fixtures and the plugin: services that a run shares, and services that are given by their address."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from confluent_kafka import KafkaException

from tests.engines import NotOursError, Postgres, ServiceError, ServiceSet, Valkey
from tests.engines.clients import consume, produce, zookeeper_client
from tests.engines.plugin import RedisAddress
from tests.engines.ports import Port
from tests.engines.processes import SECONDS, SHARED, clean_environment, eventually, mentioning
from tests.engines.versions import VERSIONS

_ROOT = Path(__file__).parents[2]


class TestSharedFixtures:
    def test_line_of_versions_names_all_services(self, services: ServiceSet) -> None:
        line = ", ".join(f"({pattern})" for pattern in VERSIONS.values())
        assert re.fullmatch(line, services.versions), services.versions

    def test_shared_services_can_not_be_killed(self, services: ServiceSet) -> None:
        for service in (services.postgres, services.valkey, services.kafka, services.zookeeper):
            with pytest.raises(NotOursError, match="given"):
                service.kill()
            with pytest.raises(NotOursError):
                service.pause()

    @pytest.mark.parametrize("run", [1, 2])
    def test_database_is_new_for_each_test(self, postgres_url: str, run: int) -> None:
        with psycopg.connect(postgres_url) as connection:
            connection.execute("CREATE TABLE only_once (n int)")

    def test_database_is_dropped_afterwards(self, services: ServiceSet) -> None:
        with services.postgres.database() as url, psycopg.connect(url):
            pass
        with pytest.raises(psycopg.OperationalError, match="does not exist"):
            psycopg.connect(url)

    @pytest.mark.parametrize("run", [1, 2])
    def test_redis_is_empty_for_each_test(self, redis_address: RedisAddress, run: int) -> None:
        redis = importlib.import_module("redis")
        with closing(redis.Redis.from_url(redis_address.url)) as client:
            assert client.dbsize() == 0
            client.set("left", "behind")
        with (
            closing(redis.Redis(redis_address.host, redis_address.port, retry=None, protocol=2)) as client,
            pytest.raises(redis.AuthenticationError),
        ):
            client.ping()

    def test_kafka_delivers_messages(self, services: ServiceSet, kafka_bootstrap: str, topic: str) -> None:
        services.kafka.create_topic(topic, partitions=3)
        produce(kafka_bootstrap, topic, "one")
        produce(kafka_bootstrap, topic, "two")
        assert consume(kafka_bootstrap, topic, 2, as_group=True) == {"one", "two"}

    def test_kafka_does_not_create_topics_on_use(self, services: ServiceSet, topic: str) -> None:
        if not services.kafka.durable:
            pytest.skip(f"not promised by {services.kafka.version}")
        admin = services.kafka.admin()
        admin.list_topics(topic, timeout=5)
        assert topic not in admin.list_topics(timeout=5).topics
        with pytest.raises(KafkaException):
            admin.delete_topics([topic])[topic].result(SECONDS)

    def test_ephemeral_node_ends_with_its_session(self, zookeeper_hosts: str, chroot: str) -> None:
        owner, other = zookeeper_client(zookeeper_hosts), zookeeper_client(zookeeper_hosts)
        try:
            owner.create(f"{chroot}/node", b"here", ephemeral=True, makepath=True)
            assert other.get(f"{chroot}/node")[0] == b"here"
            assert other.server_version() >= (3, 5)
            owner.stop()
            eventually(lambda: not other.exists(f"{chroot}/node"))
        finally:
            for client in (owner, other):
                client.stop()
                client.close()


class TestGivenAddresses:
    def test_address_in_the_environment_is_used(self, services: ServiceSet) -> None:
        external = ServiceSet.find(services.environment())
        external.start()
        try:
            assert not external.postgres.ours
            assert external.environment() == services.environment()
            assert external.postgres.version == services.postgres.version
            assert external.valkey.version == services.valkey.version
            assert external.zookeeper.version == services.zookeeper.version
        finally:
            external.close()
        assert services.postgres.answers()

    def test_unreachable_given_service_is_named(self) -> None:
        with Port() as port:
            valkey = Valkey.find({"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(port.number)})
            with pytest.raises(ServiceError, match=rf"Valkey: 127.0.0.1:{port.number} \(given\)"):
                valkey.start()

    def test_sqlite_url_is_not_used_as_postgres(self) -> None:
        assert Postgres.find({"DATABASE_URL": "sqlite:///data.db"}).ours


_INNER = """
def test_one(services): print("USES", services.environment()["DATABASE_URL"].rpartition("/")[0])
def test_two(services): print("USES", services.environment()["DATABASE_URL"].rpartition("/")[0])
def test_needs_none(): pass
"""


def _pytest(folder: Path, *options: str, environ: Mapping[str, str]) -> str:
    (folder / "test_inner.py").write_text(_INNER)
    (folder / "pytest.ini").write_text("[pytest]\n")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "tests.engines.plugin"),
            *("-p", "no:cacheprovider", "-rP", str(folder), *options),
        ],
        cwd=_ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class TestPlugin:
    def test_workers_share_one_set_that_the_controller_closes(self, tmp_path: Path) -> None:
        output = _pytest(tmp_path, "-n2", "--dist=each", environ=clean_environment())
        assert "6 passed" in output
        urls = re.findall(r"USES (\S+)", output)
        assert len(urls) == 4
        assert len(set(urls)) == 1
        line = ", ".join(VERSIONS.values())
        assert len(re.findall(f"(?m)^services: {line}$", output)) == 1
        port = urls[0].rpartition(":")[2]
        assert not mentioning(f"port={port}")

    def test_inner_run_uses_the_services_of_the_outer_run(self, tmp_path: Path, services: ServiceSet) -> None:
        output = _pytest(tmp_path, environ={**os.environ, SHARED: services.dump()})
        assert set(re.findall(r"USES (\S+)", output)) == {services.postgres.url.rpartition("/")[0]}
        assert services.postgres.answers()

    def test_no_services_option_reports_skipped_tests(self, tmp_path: Path) -> None:
        output = _pytest(tmp_path, "--no-services", environ=clean_environment())
        assert "1 passed, 2 skipped" in output
        assert "services: NONE (--no-services)" in output
