"""Batches of configurations: all or none, and a dry run writes nothing."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from configsvc.app.batches import AppliedOperation, Batches, BatchOperation
from configsvc.app.configs.plans import plan_creation, plan_deletion, plan_update
from configsvc.domain.configs import ConfigDraft
from configsvc.domain.limits import Limits
from configsvc.domain.records import Action, Author
from configsvc.errors import AlreadyExists, InvalidInput
from configsvc.storage.port import Storage
from tests.app.replica import AT, config, write

AUTHOR = Author("tester", "", "r1", AT)
A, B = config("a"), config("b")


def draft(key: str, value: object) -> ConfigDraft:
    return ConfigDraft("test", "svc", key, value)


def creation(key: str, value: object, index: int = 0) -> BatchOperation:
    return BatchOperation(f"operations[{index}].create_config", lambda fields: plan_creation(fields, draft(key, value)))


@pytest.fixture
def batches(storage: Storage) -> Batches:
    return Batches(writer=storage, limits=Limits())


async def values(storage: Storage) -> dict[str, object]:
    page = await storage.get([A, B, config("c")])
    return {ref.key: record.body["value"] for ref, record in page.records.items()}


async def test_batch_is_one_revision_with_an_outcome_for_each_operation(storage: Storage, batches: Batches) -> None:
    await write(storage, (A, 1), (B, 2))
    operations: Sequence[BatchOperation] = [
        creation("c", 3),
        BatchOperation("operations[1].update_config", lambda fields: plan_update(fields, draft("a", 10))),
        BatchOperation("operations[2].delete_config", lambda fields: plan_deletion(fields, B)),
    ]
    applied = await batches.apply(operations, AUTHOR)
    assert applied.revision == 2
    assert [(one.ref.key, one.action, one.version) for one in applied.operations] == [
        ("c", Action.CREATE, 1), ("a", Action.UPDATE, 2), ("b", Action.DELETE, 2),
    ]  # fmt: skip
    record = (await storage.get([A])).records[A]
    assert [one.etag for one in applied.operations[1:]] == [record.etag, ""]
    assert await values(storage) == {"a": 10, "c": 3}
    assert await batches.apply(operations, AUTHOR) == applied, "a retry has the outcome of the first attempt"


async def test_one_operation_that_fails_fails_the_batch_and_is_named(storage: Storage, batches: Batches) -> None:
    await write(storage, (A, 1))
    with pytest.raises(AlreadyExists) as refused:
        await batches.apply([creation("c", 3), creation("a", 2, 1)], AUTHOR)
    assert refused.value.metadata["operation"] == "operations[1]"
    assert await values(storage) == {"a": 1}


async def test_dry_run_tells_the_outcome_writes_nothing_and_keeps_the_request_id_free(
    storage: Storage, batches: Batches
) -> None:
    await write(storage, (A, 1))
    operations = [creation("c", 3)]
    tried = await batches.apply(operations, AUTHOR, validate_only=True)
    assert (tried.operations, tried.revision) == ((AppliedOperation(config("c"), Action.CREATE),), 1)
    assert await values(storage) == {"a": 1}
    other = [creation("c", 4)]
    assert (await batches.apply(other, AUTHOR)).revision == 2


async def test_two_operations_about_one_resource_are_refused(batches: Batches) -> None:
    with pytest.raises(InvalidInput) as refused:
        await batches.apply([creation("c", 3), creation("c", 4, 1)], AUTHOR)
    assert [violation.field for violation in refused.value.violations] == ["operations[1].create_config"]


async def test_invalid_fields_of_all_operations_are_named_by_their_paths(batches: Batches) -> None:
    operations = [
        creation("", 1),
        creation("k", float("nan"), 1),
        BatchOperation("operations[2].update_config", lambda fields: plan_update(fields, draft("", 1))),
        BatchOperation("operations[3].delete_config", lambda fields: plan_deletion(fields, config("/"))),
    ]
    with pytest.raises(InvalidInput) as refused:
        await batches.apply(operations, replace(AUTHOR, reason="\0"))
    assert [violation.field for violation in refused.value.violations] == [
        "reason", "operations[0].create_config.key", "operations[1].create_config.value",
        "operations[2].update_config.key", "operations[2].update_config",
        "operations[3].delete_config.key",
    ]  # fmt: skip
