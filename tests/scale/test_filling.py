"""What `filling` fills reads as the service's own."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from configsvc.app.flags.compilation import compile_set
from configsvc.domain.configs import config_ref
from configsvc.domain.flags import flag_of
from configsvc.domain.instances import Instance
from configsvc.domain.lineage import Checkpoint
from configsvc.domain.records import Kind
from configsvc.storage.port import RecordQuery, Storage, VersionRange
from configsvc.storage.postgres.storage import PostgresStorage
from configsvc.storage.sqlite.storage import SqliteStorage
from tests.scale import filling

SIZE = filling.Size(configs=60, environments=4, flags=7, services=3, instances=9, versions=5, requests=6, removed=3)

Fill = Callable[[], Awaitable[Storage]]


@pytest.fixture(params=["sqlite", "postgres"])
def filled(request: pytest.FixtureRequest, tmp_path: Path) -> Fill:
    """Fills an empty database; returns a storage on it whose context is not entered."""

    async def fill() -> Storage:
        if request.param == "sqlite":
            path = tmp_path / "storage.db"
            async with SqliteStorage(path):
                pass
            filling.fill_sqlite(path, SIZE, "replica")
            return SqliteStorage(path)
        url = request.getfixturevalue("postgres_url")
        async with PostgresStorage(url):
            pass
        filling.fill_postgres(url, SIZE, "replica")
        return PostgresStorage(url)

    return fill


async def test_the_log_has_every_record_without_a_gap(filled: Fill) -> None:
    async with await filled() as storage:
        changes = await storage.read(0, SIZE.changes + 1)
        assert [change.revision for change in changes] == list(range(1, SIZE.changes + 1))
        state = await storage.state()
        assert (state.head, state.digest) == (SIZE.changes, changes[-1].digest)
        end = Checkpoint(state.history, changes[9].revision, changes[9].digest)
        assert (await storage.resume(end, 10)).continues(end)
        last = {change.ref: change for change in changes}
        view = await storage.get([*last])
        assert {ref: (record.revision, record.version, record.body) for ref, record in view.records.items()} == {
            ref: (change.revision, change.version, change.after) for ref, change in last.items()
        }


async def test_records_are_where_their_names_say(filled: Fill) -> None:
    async with await filled() as storage:
        query = RecordQuery(Kind.CONFIG, filling.environment_name(3), limit=100)
        keys = [record.ref.key for record in (await storage.page(query)).records]
        assert keys == [filling.config_key(number) for number in range(15)]
        flags = await storage.page(replace(query, kind=Kind.FLAG, environment=filling.FLAGS_ENVIRONMENT))
        flag_set = await compile_set(filling.FLAGS_ENVIRONMENT, flags.records, flag_of, flags.revision)
        assert [flag.name for flag in flag_set] == [filling.flag_name(number) for number in range(7)]
        assert not any(flag.problem for flag in flag_set)
        instances = await storage.page(replace(query, kind=Kind.INSTANCE, environment=""))
        listed = [Instance.of(record) for record in instances.records]
        assert sorted(instance.service_name for instance in listed) == [
            filling.service_name(number) for number in range(3) for _ in range(3)
        ]
        assert {instance.owner for instance in listed} == {"replica"}
        assert not any(instance.instance_id.startswith("gone") for instance in listed)


async def test_the_hot_configuration_has_all_its_versions(filled: Fill) -> None:
    ref = config_ref(filling.HOT_ENVIRONMENT, "", filling.HOT_KEY)
    async with await filled() as storage:
        assert await storage.versions(ref) == VersionRange(1, 5)
        for version in range(2, 6):
            earlier, later = await storage.version(ref, version - 1), await storage.version(ref, version)
            assert earlier is not None
            assert later is not None
            assert (later.before, later.before_revision) == (earlier.after, earlier.revision)
