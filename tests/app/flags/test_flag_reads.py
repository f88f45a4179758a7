"""What a write of a flag reads: its own record, and those that its prerequisites make necessary."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from configsvc.app.batches import Batches, BatchOperation
from configsvc.app.flags.store import FlagStore
from configsvc.domain.flags import flag_ref
from configsvc.domain.limits import Limits
from configsvc.domain.prerequisites import WALKED_LEVELS
from configsvc.domain.records import Action, Commit, Mutation, Put, View, Write
from configsvc.errors import FailedPrecondition, InvalidInput
from configsvc.storage.port import Storage
from tests.app.flags.world import AUTHOR
from tests.app.replica import open_storage, write_all

OTHERS = 300


class RecordingWriter:
    """Writes to a storage; `views` are those of the last write, one for each time that it was decided."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.views: list[View] = []

    async def write(self, write: Write) -> Commit:
        self.views = []

        def decide(view: View) -> Sequence[Mutation]:
            self.views.append(view)
            return write.decide(view)

        return await self._storage.write(replace(write, decide=decide))

    @property
    def names(self) -> set[str]:
        """The flags that the last write was shown."""
        return {ref.key for ref in self.views[-1].records}


class Flags:
    """The use cases over an environment of `OTHERS` flags."""

    def __init__(self, storage: Storage) -> None:
        self.writer = RecordingWriter(storage)
        self.store = FlagStore(
            writer=self.writer, reader=storage, history=storage, limits=Limits(), keeps_assignments=True
        )
        self.batches = Batches(writer=self.writer, limits=Limits())

    async def put(self, name: str, *required: str) -> None:
        """Creates or updates a flag, with these prerequisites."""
        await self.store.update(flag_ref("test", name), requiring(*required), AUTHOR, allow_missing=True)

    async def delete(self, name: str) -> None:
        await self.store.delete(flag_ref("test", name), AUTHOR)


def requiring(*names: str) -> dict[str, Any]:
    return {"prerequisites": [{"flag_name": name, "variants": ["on"]} for name in names]}


@pytest.fixture
async def flags(tmp_path: Path) -> AsyncIterator[Flags]:
    async with open_storage(tmp_path) as storage:
        bodies = {f"other-{number}": {"name": f"other-{number}", "environment": "test"} for number in range(OTHERS)}
        await write_all(storage, *(Put(flag_ref("test", name), body, Action.CREATE) for name, body in bodies.items()))
        yield Flags(storage)


async def test_write_without_prerequisites_loads_no_other_flag(flags: Flags) -> None:
    await flags.put("f")
    assert (flags.writer.names, len(flags.writer.views)) == (set(), 1)
    await flags.put("f")
    assert (flags.writer.names, len(flags.writer.views)) == ({"f"}, 1)
    await flags.store.rollback(flag_ref("test", "f"), 1, AUTHOR)
    assert (flags.writer.names, len(flags.writer.views)) == ({"f"}, 1)
    await flags.delete("f")
    assert flags.writer.names == {"f"}


async def test_write_with_prerequisites_loads_the_flags_along_its_edges(flags: Flags) -> None:
    await flags.put("a", "other-1")
    await flags.put("b", "a", "other-2")
    await flags.put("unrelated", "other-3", "a")
    await flags.put("c", "b")
    assert flags.writer.names == {"b", "a", "other-1", "other-2"}


async def test_delete_loads_the_flags_that_require_it(flags: Flags) -> None:
    await flags.put("child", "other-1")
    await flags.put("other-child", "other-2")
    with pytest.raises(FailedPrecondition, match="'other-1' is a prerequisite of flag 'child'"):
        await flags.delete("other-1")
    assert flags.writer.names == {"other-1", "child"}


async def test_delete_is_not_refused_for_a_value_that_looks_like_a_prerequisite(flags: Flags) -> None:
    variants = [{"name": "a", "value": {"flag_name": "other-1"}}]
    members = {
        "value_type": "object",
        "variants": variants,
        "default_variant": "a",
        "off_variant": "a",
        "on_variant": "a",
    }
    await flags.store.update(flag_ref("test", "f"), members, AUTHOR, allow_missing=True)
    await flags.delete("other-1")
    assert flags.writer.names == {"other-1"}


async def test_chain_deeper_than_is_walked_is_checked_to_its_end(flags: Flags) -> None:
    length = WALKED_LEVELS * 3
    await flags.put("f0")
    for number in range(1, length):
        await flags.put(f"f{number}", f"f{number - 1}")
    assert len(flags.writer.views) <= WALKED_LEVELS + 3
    with pytest.raises(InvalidInput) as refused:
        await flags.put("f0", f"f{length - 1}")
    assert refused.value.reason == "PREREQUISITE_CYCLE"
    assert await flags.store.get("test", f"f{length - 1}")


async def test_batch_loads_what_its_operations_need(flags: Flags) -> None:
    await flags.put("child", "other-1")
    operations = [
        BatchOperation(
            "operations[0].update_flag",
            lambda fields: flags.store.plan_update(
                fields, flag_ref("test", "a"), requiring("other-5", "b"), allow_missing=True
            ),
        ),
        BatchOperation(
            "operations[1].update_flag",
            lambda fields: flags.store.plan_update(
                fields, flag_ref("test", "b"), {"enabled": True}, allow_missing=True
            ),
        ),
        BatchOperation(
            "operations[2].delete_flag", lambda fields: flags.store.plan_deletion(fields, flag_ref("test", "other-2"))
        ),
    ]
    dry = await flags.batches.apply(operations, AUTHOR, validate_only=True)
    done = await flags.batches.apply(operations, AUTHOR)
    assert [one.action for one in done.operations] == [Action.CREATE, Action.CREATE, Action.DELETE]
    assert [one.action for one in dry.operations] == [one.action for one in done.operations]
    assert flags.writer.names == {"other-2", "other-5"}
    refused = [
        BatchOperation(
            "operations[0].delete_flag", lambda fields: flags.store.plan_deletion(fields, flag_ref("test", "other-1"))
        )
    ]
    with pytest.raises(FailedPrecondition) as error:
        await flags.batches.apply(refused, AUTHOR)
    assert (error.value.reason, error.value.metadata["dependent"]) == ("FLAG_IS_PREREQUISITE", "child")


@pytest.mark.parametrize("deleted", [1, 9])
async def test_required_flag_among_many_that_are_deleted_is_found(flags: Flags, deleted: int) -> None:
    names = [f"other-{number}" for number in range(deleted)]
    await flags.put("child", names[-1])

    def deletions(*names: str) -> list[BatchOperation]:
        return [
            BatchOperation(
                f"operations[{place}].delete_flag",
                lambda fields, name=name: flags.store.plan_deletion(fields, flag_ref("test", name)),  # type: ignore[misc]
            )
            for place, name in enumerate(names)
        ]

    with pytest.raises(FailedPrecondition) as refused:
        await flags.batches.apply(deletions(*names), AUTHOR)
    assert flags.writer.names == {*names, "child"}
    assert refused.value.metadata["operation"] == f"operations[{deleted - 1}]"
    assert (refused.value.metadata["key"], refused.value.metadata["dependent"]) == (names[-1], "child")
    done = await flags.batches.apply(deletions(*names, "child"), AUTHOR)
    assert {one.action for one in done.operations} == {Action.DELETE}
