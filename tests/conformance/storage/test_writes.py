"""What a write changes, and what it does not."""

import asyncio
from dataclasses import replace

import pytest

from configsvc.domain.records import Action, Change, Kind, Mutation, Put, Record, Ref, Remove, Scope, View, Write
from configsvc.errors import AlreadyExists, NotFound
from configsvc.storage.port import RecordQuery, Storage
from tests.conformance.storage.writing import (
    NOON,
    author,
    batch,
    config,
    create,
    increment,
    put,
    raising,
    remove,
    revisions,
)  # fmt: skip


async def test_commit_describes_create_update_and_delete(storage: Storage) -> None:
    ref = config("a", "svc")
    created, updated, deleted = [
        (await storage.write(write)).changes[0]
        for write in (
            create(ref, "one", by=author("r1", actor="ann", reason="new")),
            put(ref, "two", by=author("r2", actor="bob", reason="better", minutes=1)),
            remove(ref, by=author("r3", actor="cem", reason="gone", minutes=2)),
        )
    ]
    first = Change(
        revision=1, ordinal=0, ref=ref, action=Action.CREATE, version=1, before=None, after={"value": "one"},
        before_revision=0, created_at=NOON, actor="ann", reason="new", request_id="r1", at=NOON,
        digest=created.digest, history=created.history,
    )  # fmt: skip
    assert created == first
    second = replace(
        first, revision=2, action=Action.UPDATE, version=2, before={"value": "one"}, after={"value": "two"},
        before_revision=1, actor="bob", reason="better", request_id="r2", at=author(minutes=1).at, digest=updated.digest,
    )  # fmt: skip
    assert updated == second
    assert deleted == replace(
        second, revision=3, action=Action.DELETE, version=3, before={"value": "two"}, after=None, before_revision=2,
        actor="cem", reason="gone", request_id="r3", at=author(minutes=2).at, digest=deleted.digest,
    )  # fmt: skip
    assert await storage.read(0, 10) == (created, updated, deleted)


async def test_record_is_the_state_after_its_last_change(storage: Storage) -> None:
    ref = config("a")
    await storage.write(create(ref, "one"))
    commit = await storage.write(put(ref, "two", by=author(actor="bob", minutes=1)))
    view = await storage.get([ref, config("missing")])
    assert view.records == {
        ref: Record(ref, 2, 2, {"value": "two"}, NOON, author(minutes=1).at, "bob", view.history),
    }
    assert view.get(ref) == commit.changes[0].record


async def test_versions_continue_after_delete_and_create(storage: Storage) -> None:
    ref = config("a")
    for write in (create(ref), remove(ref)):
        await storage.write(write)
    again = (await storage.write(create(ref, 2, by=author(minutes=5)))).changes[0]
    assert (again.version, again.before, again.before_revision) == (3, None, 0)
    assert again.created_at == author(minutes=5).at
    assert (await storage.write(put(ref, 3, by=author(minutes=6)))).changes[0].version == 4
    record = (await storage.get([ref])).get(ref)
    assert record is not None
    assert (record.version, record.created_at) == (4, author(minutes=5).at)


async def test_removed_record_is_not_found(storage: Storage) -> None:
    ref = config("a")
    await storage.write(create(ref))
    await storage.write(remove(ref))
    assert (await storage.get([ref])).records == {}
    assert (await storage.page(RecordQuery(Kind.CONFIG, "test", 10))).records == ()
    seen: list[View] = []
    await storage.write(Write(author(), (ref, Scope(Kind.CONFIG, "test")), lambda view: seen.append(view) or ()))  # type: ignore[func-returns-value]
    assert [view.records for view in seen] == [{}]
    with pytest.raises(NotFound):
        await storage.write(remove(ref))


async def test_change_has_the_action_of_its_mutation(storage: Storage) -> None:
    ref = Ref(Kind.INSTANCE, "", "svc", "i-1")
    for mutation in (
        Put(ref, {"s": 1}, Action.CREATE),
        Put(ref, {"s": 2}, Action.STATUS),
        Put(ref, {"s": 1}, Action.ROLLBACK),
        Remove(ref, Action.EXPIRE),
    ):
        await storage.write(batch(mutation))
    actions = [change.action for change in await storage.read(0, 10)]
    assert actions == [Action.CREATE, Action.STATUS, Action.ROLLBACK, Action.EXPIRE]


async def test_refs_that_differ_in_one_part_are_different_records(storage: Storage) -> None:
    refs = [
        Ref(Kind.CONFIG, "e", "s", "k"),
        Ref(Kind.FLAG, "e", "s", "k"),
        Ref(Kind.CONFIG, "e2", "s", "k"),
        Ref(Kind.CONFIG, "e", "", "k"),
        Ref(Kind.CONFIG, "e", "s", "K"),
        Ref(Kind.CONFIG, "e", "s", "k "),
    ]
    for number, ref in enumerate(refs):
        assert (await storage.write(create(ref, number))).changes[0].version == 1
    view = await storage.get(refs)
    assert {ref: record.body["value"] for ref, record in view.records.items()} == dict(zip(refs, range(6), strict=True))


async def test_get_of_no_ref_and_of_duplicate_refs(storage: Storage) -> None:
    await storage.write(create(config("a")))
    assert (await storage.get([])).records == {}
    assert (await storage.get([])).revision == 1
    assert list((await storage.get([config("a"), config("a")])).records) == [config("a")]


async def test_get_of_a_thousand_refs(storage: Storage) -> None:
    refs = [config(f"k{number}") for number in range(1_000)]
    await storage.write(batch(*(Put(ref, {"value": ref.key}, Action.CREATE) for ref in refs)))
    view = await storage.get([*refs, config("missing")])
    assert {ref: record.body["value"] for ref, record in view.records.items()} == {ref: ref.key for ref in refs}


class TestDecide:
    async def test_sees_only_what_it_reads(self, storage: Storage) -> None:
        flag = Ref(Kind.FLAG, "test", "", "f")
        for ref in (config("a"), config("b"), flag, Ref(Kind.FLAG, "other", "", "g")):
            await storage.write(create(ref, ref.key))
        seen: list[View] = []

        def decide(view: View) -> tuple[Mutation, ...]:
            seen.append(view)
            return ()

        await storage.write(Write(author(), (config("a"), config("x"), Scope(Kind.FLAG, "test")), decide))
        assert (seen[0].revision, set(seen[0].records)) == (4, {config("a"), flag})
        assert [record.body for record in seen[0].of(Scope(Kind.FLAG, "test"))] == [{"value": "f"}]

    async def test_view_is_locked(self, storage: Storage) -> None:
        await asyncio.gather(*(storage.write(increment(config("n"))) for _ in range(64)))
        view = await storage.get([config("n")])
        assert view.records[config("n")].body == {"value": 64}
        assert view.records[config("n")].version == 64

    async def test_scope_is_locked(self, storage: Storage) -> None:
        """At most ten records get into the scope, although sixty-four writes try at once."""
        scope = Scope(Kind.FLAG, "test")

        def attempt(number: int) -> Write:
            def decide(view: View) -> list[Mutation]:
                if len(view.of(scope)) >= 10:
                    raise AlreadyExists("full")
                return [Put(Ref(Kind.FLAG, "test", "", f"f{number}"), {}, Action.CREATE)]

            return Write(author(), (scope,), decide)

        outcomes = await asyncio.gather(*(storage.write(attempt(n)) for n in range(64)), return_exceptions=True)
        assert sum(isinstance(outcome, AlreadyExists) for outcome in outcomes) == 54
        assert len((await storage.page(RecordQuery(Kind.FLAG, "test", 100))).records) == 10

    async def test_may_change_a_record_that_it_did_not_read(self, storage: Storage) -> None:
        await storage.write(create(config("old")))
        commit = await storage.write(
            batch(Put(config("old"), {"value": 2}, Action.UPDATE), Put(config("new"), {}, Action.CREATE), reads=())
        )
        assert [(change.version, change.before) for change in commit.changes] == [(2, {"value": 1}), (1, None)]

    @pytest.mark.parametrize("error", [NotFound("no"), RuntimeError("a bug"), StopIteration(), SystemExit(3)])
    async def test_error_fails_its_write_alone(self, storage: Storage, error: BaseException) -> None:
        async def attempt(number: int) -> BaseException | int:
            write = raising(error, config("bad")) if number == 7 else put(config(f"k{number}"))
            try:
                return (await storage.write(write)).revision
            except BaseException as raised:
                return raised

        outcomes = await asyncio.gather(*(attempt(number) for number in range(16)))
        raised = outcomes.pop(7)
        # If a coroutine raises StopIteration, Python turns it into the cause of a RuntimeError.
        assert raised is error or getattr(raised, "__cause__", None) is error
        assert sorted(outcome for outcome in outcomes if isinstance(outcome, int)) == list(range(1, 16))
        assert (await storage.get([config("bad")])).records == {}

    @pytest.mark.parametrize(
        "mutations",
        [
            (Put(config("ok"), {}, Action.CREATE), Remove(config("missing"))),
            (Put(config("ok"), {}, Action.CREATE), Put(config("ok"), {}, Action.UPDATE)),
            (Put(config("ok"), {}, Action.CREATE), Put(config("nan"), {"value": float("nan")}, Action.CREATE)),
            (Put(config("ok"), {}, Action.CREATE), Put(config("odd"), {"value": object()}, Action.CREATE)),
        ],
        ids=["removes what is missing", "names a record twice", "not a number", "not JSON"],
    )
    async def test_invalid_mutations_change_nothing(self, storage: Storage, mutations: tuple[Mutation, ...]) -> None:
        outcomes = await asyncio.gather(
            storage.write(put(config("before"))),
            storage.write(batch(*mutations)),
            storage.write(put(config("after"))),
            return_exceptions=True,
        )
        assert isinstance(outcomes[1], ValueError | TypeError)
        assert await revisions(storage) == [1, 2]
        assert set((await storage.get([config("before"), config("ok"), config("after")])).records) == {
            config("before"),
            config("after"),
        }

    async def test_value_that_the_database_refuses_fails_its_write_alone(self, storage: Storage) -> None:
        """A lone surrogate has no UTF-8. The service refuses it earlier; if that check failed, other writes must not."""
        outcomes = await asyncio.gather(
            storage.write(put(config("before"))),
            storage.write(put(config("odd"), by=author(reason="\ud800"))),
            storage.write(put(config("after"))),
            return_exceptions=True,
        )
        assert isinstance(outcomes[1], Exception)
        assert await revisions(storage) == [1, 2]
        assert set((await storage.get([config("before"), config("odd"), config("after")])).records) == {
            config("before"),
            config("after"),
        }


async def test_batch_is_all_or_nothing(storage: Storage) -> None:
    await storage.write(create(config("a"), "old"))

    def decide(view: View) -> list[Mutation]:
        if config("a") in view.records:
            raise AlreadyExists("a precondition of the last item")
        return [Put(config("b"), {}, Action.CREATE)]

    with pytest.raises(AlreadyExists):
        await storage.write(Write(author(), (config("a"), config("b")), decide))
    assert set((await storage.get([config("a"), config("b")])).records) == {config("a")}


async def test_cancelled_caller_does_not_affect_other_writes(storage: Storage) -> None:
    tasks = [asyncio.create_task(storage.write(increment(config("n")))) for _ in range(40)]
    cancelled = tasks[::4]

    async def cancel_in_the_middle() -> None:
        await tasks[1]
        for task in cancelled:
            task.cancel()

    await asyncio.gather(cancel_in_the_middle(), *tasks, return_exceptions=True)
    finished = [task.result().revision for task in tasks if task not in cancelled]
    assert sorted(finished) == sorted(set(finished))
    head = (await storage.write(increment(config("n")))).revision
    # A cancelled write has happened completely, or not at all.
    assert await revisions(storage) == list(range(1, head + 1))
    assert (await storage.get([config("n")])).records[config("n")].body == {"value": head}


async def test_closing_commits_the_queued_writes(storage: Storage) -> None:
    tasks = [asyncio.create_task(storage.write(put(config(f"k{number}")))) for number in range(30)]
    # The first group has committed, and other writes are still queued.
    await tasks[0]
    await storage.__aexit__(None, None, None)
    commits = await asyncio.gather(*tasks)
    assert sorted(commit.revision for commit in commits) == list(range(1, 31))
