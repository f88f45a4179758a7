"""A decision asks its view for records that its write did not name."""

import asyncio
from collections.abc import Callable, Sequence
from itertools import count

import pytest

from configsvc.domain.flags import creation, flag_ref, parse, update
from configsvc.domain.preconditions import NO_PRECONDITION
from configsvc.domain.prerequisites import with_prerequisite_check
from configsvc.domain.records import Action, Dependents, Kind, Mutation, Put, Ref, Remove, Scope, View, Write
from configsvc.errors import FailedPrecondition, InvalidInput
from configsvc.storage.port import Storage
from tests.conformance.storage.writing import author, batch, config, create, put, remove, revisions

FLAGS = Scope(Kind.FLAG, "test")
TARGET = config("target")


def copying(values: Callable[[View], object], *reads: Ref | Scope | Dependents) -> Write:
    """Puts what `values` finds in the view into `TARGET`."""

    def decide(view: View) -> Sequence[Mutation]:
        return [Put(TARGET, {"found": values(view)}, Action.UPDATE)]

    return Write(author(), (TARGET, *reads), decide)


def value_of(view: View, ref: Ref) -> object:
    record = view.get(ref)
    return record.body["value"] if record else None


def keys_requiring(view: View, name: str) -> list[str]:
    """The flags that require another one, without the others that a view may show."""
    records = view.of(Dependents(Kind.FLAG, "test", name))
    return [record.ref.key for record in records if {"flag_name": name} in record.body["prerequisites"]]


def flag_put(name: str, *required: str, environment: str = "test", action: Action = Action.CREATE) -> Put:
    body = {"prerequisites": [{"flag_name": one} for one in required]}
    return Put(flag_ref(environment, name), body, action)


async def found(storage: Storage) -> object:
    return (await storage.get([TARGET])).records[TARGET].body["found"]


async def test_record_that_was_not_named_is_read_when_asked_for(storage: Storage) -> None:
    await storage.write(create(config("a"), "one"))
    await storage.write(copying(lambda view: [value_of(view, config("a")), value_of(view, config("missing"))]))
    assert await found(storage) == ["one", None]


async def test_answer_may_lead_to_another_question(storage: Storage) -> None:
    for key, value in (("a", "b"), ("b", "c"), ("c", "end")):
        await storage.write(create(config(key), value))

    def last(view: View) -> object:
        value = value_of(view, config("a"))
        while value != "end":
            value = value_of(view, config(str(value)))
        return value

    await storage.write(copying(last))
    assert await found(storage) == "end"


async def test_last_version_of_a_removed_record_is_read_when_asked_for(storage: Storage) -> None:
    await storage.write(create(config("a")))
    await storage.write(remove(config("a")))
    await storage.write(copying(lambda view: [view.last_version(config("a")), view.last_version(config("b"))]))
    assert await found(storage) == [2, 0]


async def test_last_version_is_also_read_if_the_scope_was_named(storage: Storage) -> None:
    ref = flag_ref("test", "f")
    await storage.write(create(ref))
    await storage.write(remove(ref))
    await storage.write(copying(lambda view: view.last_version(ref), FLAGS))
    assert await found(storage) == 2


async def test_scope_is_read_when_asked_for(storage: Storage) -> None:
    for name in ("g", "f"):
        await storage.write(create(flag_ref("test", name)))
    await storage.write(create(flag_ref("other", "h")))
    await storage.write(copying(lambda view: [record.ref.key for record in view.of(FLAGS)]))
    assert await found(storage) == ["f", "g"]


@pytest.mark.parametrize("name", ["plain", 'quo"te', "back\\slash", "50%_", "ü\u2028", "a\tb"])
async def test_dependents_are_read_when_asked_for(storage: Storage, name: str) -> None:
    await storage.write(
        batch(
            flag_put("exact", "other", name),
            flag_put("twice", name, name),
            flag_put("prefix", f"{name}x"),
            flag_put("removed", name),
            flag_put("changed", name),
            flag_put("elsewhere", name, environment="other"),
            Put(config("config"), {"prerequisites": [{"flag_name": name}]}, Action.CREATE),
        )
    )
    await storage.write(batch(Remove(flag_ref("test", "removed")), flag_put("changed", "other", action=Action.UPDATE)))
    seen: list[View] = []
    await storage.write(copying(lambda view: seen.append(view) or keys_requiring(view, name)))  # type: ignore[func-returns-value]
    assert await found(storage) == ["exact", "twice"]
    shown = {ref.key for ref in seen[-1].records} - {"target"}
    assert shown == {"exact", "twice"}, "a flag was loaded that does not depend on the one that was named"


async def test_dependents_of_several_flags_are_read_together(storage: Storage) -> None:
    await storage.write(batch(flag_put("both", "a", "b"), flag_put("one", "b"), flag_put("none", "c")))

    def both(view: View) -> object:
        view.require(*(Dependents(Kind.FLAG, "test", name) for name in "ab"))
        return [keys_requiring(view, name) for name in "ab"]

    await storage.write(copying(both))
    assert await found(storage) == [["both"], ["both", "one"]]


async def test_flag_that_is_restored_depends_again(storage: Storage) -> None:
    ref = flag_ref("test", "child")
    for mutation in (flag_put("child", "a"), Remove(ref), flag_put("child", "a")):
        await storage.write(batch(mutation))
    await storage.write(copying(lambda view: keys_requiring(view, "a")))
    assert await found(storage) == ["child"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"prerequisites": None},
        {"prerequisites": {"flag_name": "a"}},
        {"prerequisites": [None, 1, "a", [], {}, {"flag_name": 1}, {"flag_name": None}]},
        {"other": [{"flag_name": "a"}]},
        {"description": "\0 \\u0000", "prerequisites": []},
    ],
)
async def test_flag_with_any_body_can_be_stored_and_has_no_dependency(
    storage: Storage, body: dict[str, object]
) -> None:
    """What a later release stores, or a release before prerequisites stored, harms no write."""
    await storage.write(batch(Put(flag_ref("test", "odd"), body, Action.CREATE)))
    await storage.write(batch(Put(flag_ref("test", "odd"), body, Action.UPDATE)))
    await storage.write(copying(lambda view: [one.ref.key for one in view.of(Dependents(Kind.FLAG, "test", "a"))]))
    assert await found(storage) == []


async def test_flag_with_a_nul_character_depends_too(storage: Storage) -> None:
    body = {"description": "\0 \\u0000", "prerequisites": [{"flag_name": "a"}]}
    await storage.write(batch(Put(flag_ref("test", "child"), body, Action.CREATE)))
    await storage.write(copying(lambda view: keys_requiring(view, "a")))
    assert await found(storage) == ["child"]


async def test_earlier_writes_of_the_group_are_seen(storage: Storage) -> None:
    """Writes that wait at the same time share a transaction; the answer to a question has those before it."""
    gone, changed, kept = (flag_ref("test", name) for name in ("gone", "changed", "kept"))
    for ref in (gone, changed, kept):
        await storage.write(batch(flag_put(ref.key, "x")))
    await storage.write(create(config("a"), "old"))
    await asyncio.gather(
        storage.write(put(config("a"), "new")),
        storage.write(put(config("b"), "new")),
        storage.write(remove(gone)),
        storage.write(batch(flag_put("changed", "y", action=Action.UPDATE))),
        storage.write(batch(flag_put("added", "x"))),
        storage.write(
            copying(
                lambda view: [
                    value_of(view, config("a")),
                    value_of(view, config("b")),
                    keys_requiring(view, "x"),
                    keys_requiring(view, "y"),
                    [record.ref.key for record in view.of(FLAGS)],
                ]
            )
        ),
    )
    assert await found(storage) == ["new", "new", ["added", "kept"], ["changed"], ["added", "changed", "kept"]]


async def test_decision_that_asks_may_refuse_without_an_effect_on_the_group(storage: Storage) -> None:
    await storage.write(create(config("a"), "taken"))

    def refuse(view: View) -> object:
        raise FailedPrecondition(f"a is {value_of(view, config('a'))}")

    before, refused, after = await asyncio.gather(
        storage.write(put(config("b"))),
        storage.write(copying(refuse)),
        storage.write(put(config("c"))),
        return_exceptions=True,
    )
    assert str(refused) == "a is taken"
    assert not isinstance(before, BaseException)
    assert not isinstance(after, BaseException)
    assert await revisions(storage) == [1, 2, 3]


async def test_decision_that_asks_for_ever_fails_alone(storage: Storage) -> None:
    def for_ever(view: View) -> object:
        return next(value for number in count() if (value := value_of(view, config(f"k{number}"))))

    outcomes = await asyncio.gather(
        storage.write(put(config("before"))),
        storage.write(copying(for_ever)),
        storage.write(put(config("after"))),
        return_exceptions=True,
    )
    assert isinstance(outcomes[1], RuntimeError)
    assert await revisions(storage) == [1, 2]
    assert (await storage.get([TARGET])).records == {}


async def test_question_that_the_database_refuses_fails_its_write_alone(storage: Storage) -> None:
    outcomes = await asyncio.gather(
        storage.write(put(config("before"))),
        storage.write(copying(lambda view: value_of(view, config("\ud800")))),
        storage.write(put(config("after"))),
        return_exceptions=True,
    )
    assert isinstance(outcomes[1], Exception)
    assert await revisions(storage) == [1, 2]


class TestFlags:
    async def test_concurrent_writes_that_make_a_cycle_together_are_not_both_accepted(self, storage: Storage) -> None:
        for number in range(8):
            names = [f"f{number}-{letter}" for letter in "abc"]
            for name in names:
                await storage.write(written(creation(parse({"name": name, "environment": "test"}), "t"), name))
            outcomes = await asyncio.gather(
                *(
                    storage.write(requiring(name, required))
                    for name, required in zip(names, (*names[1:], names[0]), strict=True)
                ),
                return_exceptions=True,
            )
            refused = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
            assert [type(error) for error in refused] == [InvalidInput]
            assert [error.reason for error in refused if isinstance(error, InvalidInput)] == ["PREREQUISITE_CYCLE"]

    async def test_flag_is_not_both_deleted_and_required_by_concurrent_writes(self, storage: Storage) -> None:
        for name in ("parent", "child"):
            await storage.write(written(creation(parse({"name": name, "environment": "test"}), "t"), name))
        parent = flag_ref("test", "parent")
        delete = Write(author(), (parent,), with_prerequisite_check(lambda _: [Remove(parent)]))
        require, refused = await asyncio.gather(
            storage.write(requiring("child", "parent")), storage.write(delete), return_exceptions=True
        )
        assert not isinstance(require, BaseException)
        assert isinstance(refused, FailedPrecondition)
        assert refused.reason == "FLAG_IS_PREREQUISITE"


def written(decide: Callable[[View], Sequence[Mutation]], name: str) -> Write:
    return Write(author(), (flag_ref("test", name),), with_prerequisite_check(decide))


def requiring(name: str, required: str) -> Write:
    changes = {"prerequisites": [{"flag_name": required, "variants": ["on"]}]}
    decide = update(flag_ref("test", name), changes, "t", NO_PRECONDITION, allow_missing=False)
    return written(decide, name)
