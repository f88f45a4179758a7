"""A database of an earlier release is migrated when it is opened, with its data."""

import pytest

from configsvc.domain.flags import flag_ref
from configsvc.domain.records import Action, Dependents, Kind, Put, View, Write
from configsvc.storage.postgres import schema
from configsvc.storage.sql.migrations import Migration, migrations_of
from configsvc.storage.sqlite import connection
from tests.conformance.storage.writing import StorageFactory, author, batch, config, put, remove


@pytest.fixture
def earlier_release(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Storages know no migration from `requirements` on, until this is undone."""

    def earlier(dialect: str) -> tuple[Migration, ...]:
        steps = migrations_of(dialect)
        (place,) = [place for place, step in enumerate(steps) if step.name.endswith("_requirements.sql")]
        return steps[:place]

    for module in (schema, connection):
        monkeypatch.setattr(module, "migrations_of", earlier)
    return monkeypatch


async def test_prerequisites_of_flags_that_were_stored_before_are_found(
    open_storage: StorageFactory, earlier_release: pytest.MonkeyPatch
) -> None:
    def flag(name: str, *required: str) -> Put:
        body = {"description": "\0", "prerequisites": [{"flag_name": one} for one in required]}
        return Put(flag_ref("test", name), body, Action.CREATE)

    async with open_storage() as storage:
        await storage.write(batch(flag("a"), flag("b", "a"), flag("c", "a", "b"), flag("gone", "a")))
        await storage.write(batch(Put(flag_ref("other", "odd"), {"prerequisites": "a"}, Action.CREATE)))
        await storage.write(put(config("a")))
        await storage.write(remove(flag_ref("test", "gone")))
    earlier_release.undo()

    found: list[str] = []

    def decide(view: View) -> tuple[()]:
        found[:] = [record.ref.key for record in view.of(Dependents(Kind.FLAG, "test", "a"))]
        return ()

    async with open_storage() as storage:
        await storage.write(Write(author(), (), decide))
        assert found == ["b", "c"]
        await storage.write(remove(flag_ref("test", "b")))
        await storage.write(Write(author(), (), decide))
        assert found == ["c"]
