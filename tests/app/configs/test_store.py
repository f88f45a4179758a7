"""The configuration store: partial updates, effective values, bulk reads, batches and rollbacks, and what is refused."""

from collections.abc import Callable
from typing import Any

import pytest

from configsvc.app.changelog.writer import AppliedWriter
from configsvc.app.configs.near_cache import NearCache
from configsvc.app.configs.store import ConfigStore
from configsvc.domain.configs import Config, ConfigDraft, ConfigFilter, ConfigOperation, config_ref
from configsvc.domain.json_values import MISSING
from configsvc.domain.limits import Limits
from configsvc.domain.pages import PageRequest
from configsvc.domain.preconditions import Precondition
from configsvc.domain.records import Action, Author
from configsvc.errors import AlreadyExists, InvalidInput, NotFound, StaleEtag
from tests.app.replica import AT, Replica

AUTHOR = Author("tester", "", "", AT)


@pytest.fixture
def store(replica: Replica) -> ConfigStore:
    near_cache = replica.following(NearCache(reader=replica.storage, tail=replica.tail, max_entries=100))
    return ConfigStore(
        writer=AppliedWriter(replica.storage, replica.tail),
        reader=replica.storage,
        history=replica.storage,
        near_cache=near_cache,
        limits=Limits(),
    )


def draft(key: str, value: Any = MISSING, description: str | None = None, service: str = "") -> ConfigDraft:
    return ConfigDraft("test", service, key, value, description)


def ref(key: str, service: str = "") -> Any:
    return config_ref("test", service, key)


async def fields_refused(call: Callable[[], Any]) -> list[str]:
    with pytest.raises(InvalidInput) as refused:
        await call()
    return [violation.field for violation in refused.value.violations]


async def test_update_keeps_what_it_does_not_name(store: ConfigStore) -> None:
    created = await store.create(draft("k", 1, "why"), AUTHOR)
    changed = await store.update(draft("k", 2), AUTHOR)
    assert Config.of(changed.written.body) == Config(2, "why")
    described = await store.update(draft("k", description="because"), AUTHOR)
    assert Config.of(described.written.body) == Config(2, "because")
    assert [change.action for change in (created, changed, described)] == [
        Action.CREATE, Action.UPDATE, Action.UPDATE,
    ]  # fmt: skip
    found = await store.get(ref("k"))
    assert (found.value, found.revision) == (described.written, described.revision)


async def test_write_of_a_missing_or_existing_configuration(store: ConfigStore) -> None:
    with pytest.raises(NotFound):
        await store.update(draft("k", 1), AUTHOR)
    with pytest.raises(NotFound):
        await store.delete(ref("k"), AUTHOR)
    created = await store.update(draft("k", 1), AUTHOR, allow_missing=True)
    assert created.action is Action.CREATE
    with pytest.raises(AlreadyExists):
        await store.create(draft("k", 1), AUTHOR)
    with pytest.raises(StaleEtag):
        await store.update(draft("k", 2), AUTHOR, precondition=Precondition(("1-0-x",)))
    deleted = await store.delete(ref("k"), AUTHOR, precondition=Precondition((created.written.etag,)))
    assert (deleted.action, deleted.version) == (Action.DELETE, 2)


async def test_update_that_creates_needs_a_value(store: ConfigStore) -> None:
    call = lambda: store.update(draft("k", description="d"), AUTHOR, allow_missing=True)  # noqa: E731
    assert await fields_refused(call) == ["value"]


async def test_service_sees_its_own_value_over_the_shared_one(store: ConfigStore) -> None:
    for key, service, value in (("a", "", 1), ("b", "", 2), ("b", "svc", 3), ("c", "svc", 4), ("c", "other", 5)):
        await store.create(draft(key, value, service=service), AUTHOR)
    shown, token = [], ""
    while True:
        page = await store.effective("test", "svc", "", PageRequest(2, token))
        shown += [(one.record.ref.key, one.record.body["value"], one.overrides_shared) for one in page.items]
        token = page.next_page_token
        if not token:
            break
    assert shown == [("a", 1, False), ("b", 3, True), ("c", 4, False)]
    own = (await store.effective_value(ref("b", "svc"))).value
    shared = (await store.effective_value(ref("b", "other"))).value
    assert [(one.source, one.overrides_shared) for one in (own, shared)] == [("service", True), ("shared", False)]
    assert own.etag != shared.etag
    with pytest.raises(NotFound):
        await store.effective_value(ref("c", "third"))


async def test_pages_of_a_list_are_filtered_and_ordered_by_key_and_service(store: ConfigStore) -> None:
    for key, service in (("b", ""), ("a", "svc"), ("a", ""), ("ab", ""), ("c", "svc")):
        await store.create(draft(key, 1, service=service), AUTHOR)

    async def listed(selected: ConfigFilter, size: int = 2) -> list[tuple[str, str]]:
        items, token = [], ""
        while True:
            page = await store.list(selected, PageRequest(size, token))
            items += [(record.ref.key, record.ref.service) for record in page.items]
            token = page.next_page_token
            if not token:
                return items

    assert await listed(ConfigFilter("test")) == [("a", ""), ("a", "svc"), ("ab", ""), ("b", ""), ("c", "svc")]
    assert await listed(ConfigFilter("test", "")) == [("a", ""), ("ab", ""), ("b", "")]
    assert await listed(ConfigFilter("test", prefix="a")) == [("a", ""), ("a", "svc"), ("ab", "")]
    assert await listed(ConfigFilter("test", "svc", ("a", "b"))) == [("a", "svc")]
    assert await listed(ConfigFilter("staging")) == []


async def test_bulk_read_has_each_key_once_in_the_order_of_the_request(store: ConfigStore) -> None:
    for key in ("a", "b"):
        await store.create(draft(key, key), AUTHOR)
    read = await store.bulk("test", "", ["b", "missing", "a", "b"])
    assert [record.ref.key for record in read.found] == ["b", "a"]
    assert (read.missing, read.not_read, read.revision) == (("missing",), (), 2)


async def test_batch_is_one_revision_or_nothing(store: ConfigStore) -> None:
    await store.create(draft("old", 1), AUTHOR)
    operations = [ConfigOperation(draft("new", 2)), ConfigOperation(draft("old"), delete=True)]
    commit = await store.batch_write("test", operations, AUTHOR)
    assert [(change.ref.key, change.action) for change in commit.changes] == [
        ("new", Action.CREATE), ("old", Action.DELETE),
    ]  # fmt: skip
    with pytest.raises(AlreadyExists) as refused:
        await store.batch_write(
            "test", [ConfigOperation(draft("x", 1)), ConfigOperation(draft("new", 1), must_not_exist=True)], AUTHOR
        )
    assert refused.value.metadata["operation"] == "operations[1]"
    with pytest.raises(NotFound):
        await store.get(ref("x"))


async def test_rollback_restores_value_and_description_and_a_deleted_key(store: ConfigStore) -> None:
    await store.create(draft("k", 1, "first"), AUTHOR)
    await store.update(draft("k", 2, "second"), AUTHOR)
    await store.delete(ref("k"), AUTHOR)
    rolled = await store.rollback(ref("k"), 1, AUTHOR)
    assert (rolled.action, rolled.version) == (Action.ROLLBACK, 4)
    assert Config.of(rolled.written.body) == Config(1, "first")
    diff = await store.diff(ref("k"), 2, 0)
    assert [(one.before, one.after) for one in diff.differences] == [(2, 1)]
    assert [change.version for change in (await store.history(ref("k"), PageRequest(3))).page.items] == [4, 3, 2]


async def test_every_field_that_cannot_be_accepted_is_named(store: ConfigStore) -> None:
    bad = ConfigDraft("no good", "no good", "", float("nan"), "\0")
    assert await fields_refused(lambda: store.create(bad, AUTHOR)) == [
        "key", "environment", "service_name", "value", "description",
    ]  # fmt: skip
    assert await fields_refused(lambda: store.list(ConfigFilter("", "no good", prefix="\0"), PageRequest(-1))) == [
        "environment", "service_name", "prefix", "page_size",
    ]  # fmt: skip
    assert await fields_refused(lambda: store.diff(ref("k"), 0, -1)) == ["from_version", "to_version"]
    assert await fields_refused(lambda: store.bulk("test", "", [])) == ["keys"]
    assert await fields_refused(lambda: store.effective("test", "", "", PageRequest())) == ["service_name"]
    assert await fields_refused(lambda: store.effective_value(config_ref("no good", "no good", ""))) == [
        "key", "environment", "service_name",
    ]  # fmt: skip
    for call in (store.get, store.effective_value):
        assert await fields_refused(lambda call=call: call(config_ref("no good", "svc", "k"))) == ["environment"]  # type: ignore[misc]
    assert await fields_refused(lambda: store.history(ref(""), PageRequest(-1))) == ["key", "page_size"]
    assert await fields_refused(lambda: store.rollback(ref(""), 0, AUTHOR)) == ["key", "version"]
    operations = [
        ConfigOperation(draft("a", 1), must_not_exist=True, precondition=Precondition(("x",))),
        ConfigOperation(draft("a"), delete=True, must_not_exist=True),
    ]
    assert await fields_refused(lambda: store.batch_write("test", operations, AUTHOR)) == [
        "operations[0].must_not_exist", "operations[1].must_not_exist", "operations[1].key",
    ]  # fmt: skip
