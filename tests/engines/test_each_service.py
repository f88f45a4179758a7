"""Each private service starts, answers, survives what it should, and leaves nothing behind."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import closing

import psycopg
import pytest

from tests.engines import Kafka, Postgres, Service, Valkey, ZooKeeper
from tests.engines.clients import consume, produce, zookeeper_client
from tests.engines.plugin import PrivatePostgres
from tests.engines.processes import alive, eventually, listening, mentioning
from tests.engines.versions import VERSIONS

_PRIVATE: dict[str, Callable[[], Service]] = {
    "postgres": lambda: Postgres(durable=True),
    "valkey": Valkey,
    "kafka": Kafka,
    "zookeeper": ZooKeeper,
}


@pytest.fixture(scope="module", params=_PRIVATE)
def private(request: pytest.FixtureRequest) -> Iterator[tuple[str, Service]]:
    with _PRIVATE[request.param]() as service:
        yield request.param, service


class TestEachService:
    def test_version_and_address_are_reported(self, private: tuple[str, Service]) -> None:
        name, service = private
        assert re.fullmatch(VERSIONS[name], service.version)
        assert "127.0.0.1" in service.address
        values = service.environment().values()
        assert any(str(service.port) in value for value in values)
        assert service.process.memory_bytes() > 1_000_000

    def test_listens_on_loopback_only(self, private: tuple[str, Service]) -> None:
        _, service = private
        pids = {str(pid) for pid in service.process.pids()}
        assert pids
        addresses = listening(pids)
        assert addresses
        assert all(address.startswith("127.0.0.1") for address in addresses), addresses

    def test_paused_service_does_not_answer_until_resumed(self, private: tuple[str, Service]) -> None:
        _, service = private
        before = service.process.pids()
        service.pause()
        try:
            assert not service.answers()
        finally:
            service.resume()
        eventually(service.answers)
        assert set(service.process.pids()) & set(before)

    def test_killed_service_restarts_on_the_same_port(self, private: tuple[str, Service]) -> None:
        _, service = private
        before, address = service.process.pids(), service.address
        service.kill()
        assert not service.running
        assert not any(alive(pid) for pid in before)
        service.restart()
        assert service.address == address
        assert service.answers()

    def test_service_killed_while_paused_restarts(self, private: tuple[str, Service]) -> None:
        _, service = private
        service.pause()
        service.kill()
        service.restart()
        assert service.answers()

    def test_stopped_service_starts_again(self, private: tuple[str, Service]) -> None:
        _, service = private
        before = service.process.pids()
        service.stop()
        assert not any(alive(pid) for pid in before)
        assert not service.answers()
        service.start()
        assert service.answers()

    @pytest.mark.parametrize("name", _PRIVATE)
    def test_close_leaves_no_process_and_no_file(self, name: str) -> None:
        service = _PRIVATE[name]()
        with service:
            pids = service.process.pids()
            directory = service.process.log_file.parent
            assert mentioning(str(directory))
        assert not any(alive(pid) for pid in pids)
        assert not mentioning(str(directory))
        assert not directory.exists()


class TestDataThroughKill:
    def test_durable_postgres_keeps_commits(self, private_postgres: PrivatePostgres) -> None:
        postgres = private_postgres()
        url = postgres.create_database()
        with psycopg.connect(url) as connection:
            connection.execute("CREATE TABLE t AS SELECT 7 AS n")
        postgres.kill()
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(url, connect_timeout=2)
        postgres.restart()
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT n FROM t").fetchone() == (7,)
            assert connection.execute("SHOW fsync").fetchone() == ("on",)

    def test_kafka_keeps_acknowledged_messages(self, private_kafka: Callable[[], Kafka]) -> None:
        kafka = private_kafka()
        if not kafka.durable:
            pytest.skip(f"{kafka.version} keeps everything in memory")
        kafka.create_topic("kept")
        produce(kafka.address, "kept", "before")
        kafka.kill()
        kafka.restart()
        produce(kafka.address, "kept", "after")
        assert consume(kafka.address, "kept", 2) == {"before", "after"}

    def test_zookeeper_keeps_nodes_and_sessions(self, private_zookeeper: Callable[[], ZooKeeper]) -> None:
        zookeeper = private_zookeeper()
        client = zookeeper_client(zookeeper.address)
        try:
            client.create("/kept", b"data")
            client.create("/mine", b"", ephemeral=True)
            session = client.client_id
            zookeeper.kill()
            zookeeper.restart()
            assert client.retry(client.get, "/kept")[0] == b"data"
            assert client.client_id == session
            assert client.exists("/mine")
        finally:
            client.stop()
            client.close()

    def test_valkey_loses_everything(self, private_valkey: Callable[[], Valkey]) -> None:
        valkey = private_valkey()
        with closing(valkey.client()) as client:
            client.set("key", "value")
        valkey.kill()
        valkey.restart()
        with closing(valkey.client()) as client:
            assert client.get("key") is None
