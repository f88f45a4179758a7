"""Flags in the store: what a record of one holds, and the decision of each write.

What a flag is and how it is evaluated is in `configsvc_client.evaluation`. A decision here is about its flag alone;
`prerequisites` checks the flags of an environment together, after it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from configsvc_client.evaluation import Flag, InvalidFlag, Variant, check_successor
from configsvc_client.evaluation.conditions import USER_ID

from configsvc.domain.preconditions import Precondition
from configsvc.domain.records import Action, Decision, JsonObject, Kind, Mutation, Put, Record, Ref, View
from configsvc.domain.resources import already_exists, not_found
from configsvc.errors import InvalidInput

# What a member stands for that a record was stored without: every reader of a body has to know it.
DEFAULTS = Flag("", "").to_json()
_NOT_IN_DEFINITION = ("name", "environment", "version", "incarnation")


def flag_ref(environment: str, name: str) -> Ref:
    """The identity of a flag."""
    return Ref(Kind.FLAG, environment, "", name)


def parse(definition: Mapping[str, Any]) -> Flag:
    """The flag that JSON describes. Raises `InvalidInput` with every field that can't be accepted."""
    try:
        return Flag.from_json(definition)
    except InvalidFlag as error:
        raise invalid_input(error) from error


def flag_of(record: Record) -> Flag:
    """The flag that a record holds, whatever the limits are now. Its version is the record's."""
    ref = record.ref
    return replace(Flag.from_stored(record.body), name=ref.key, environment=ref.environment, version=record.version)


def member(body: JsonObject, name: str) -> Any:
    """A member of a body; its default if the record was stored without it."""
    return body.get(name, DEFAULTS[name])


def definition_of(body: JsonObject) -> JsonObject:
    """The definition in a body, as users know it: without the identity, with members that came later."""
    return {name: member(body, name) for name in DEFAULTS if name not in _NOT_IN_DEFINITION}


def body_of(flag: Flag) -> JsonObject:
    """The body of a flag's record. The version is the record's, and not repeated."""
    return {name: value for name, value in flag.to_json().items() if name != "version"}


def creation(flag: Flag, token: str) -> Decision:
    """The flag must not exist. `token`, new and random, is its salt if it has none, and its incarnation."""

    def decide(view: View) -> Sequence[Mutation]:
        ref = flag_ref(flag.environment, flag.name)
        if (current := view.get(ref)) is not None:
            raise already_exists(current)
        after = with_incarnation(None, replace(flag, salt=flag.salt or token), token)
        return (Put(ref, body_of(after), Action.CREATE),)

    return decide


def update(
    ref: Ref, changes: Mapping[str, Any], token: str, precondition: Precondition, *, allow_missing: bool
) -> Decision:
    """Writes these members of the definition over the current one; all others stay.

    The flag must exist, unless `allow_missing`, and satisfy the precondition. The new definition is checked as a whole:
    raises `InvalidInput`. `token`: see `creation`.
    """

    def decide(view: View) -> Sequence[Mutation]:
        current = view.get(ref)
        precondition.check(ref, current)
        if current is None:
            if not (allow_missing or precondition.requires_absence):
                raise not_found(ref)
            return creation(parse({"name": ref.key, "environment": ref.environment, **changes}), token)(view)
        after = parse({**current.body, **changes})
        before = _predecessor(ref, current.body)
        after = replace(after, salt=after.salt or before.salt)
        try:
            check_successor(before, after)
        except InvalidFlag as error:
            raise invalid_input(error) from error
        return (Put(ref, body_of(with_incarnation(before, after, token)), Action.UPDATE),)

    return decide


def with_incarnation(before: Flag | None, after: Flag, token: str) -> Flag:
    """`after` in its incarnation: that of `before`, or a new one, named by `token`.

    The assignments of a sticky flag belong to one incarnation. It ends when the flag is deleted, disabled or no longer
    sticky, and when an assignment would mean something else: for other units, or of another type. So each write that
    changes one of these begins a new incarnation; every other write keeps it.
    """
    if not after.sticky:
        return replace(after, incarnation="")
    if before is not None and _meaning_of_assignments(before) == _meaning_of_assignments(after):
        return replace(after, incarnation=before.incarnation)
    return replace(after, incarnation=token)


def _meaning_of_assignments(flag: Flag) -> tuple[object, ...]:
    return flag.enabled, flag.sticky, flag.bucket_by or USER_ID, flag.value_type


def invalid_input(error: InvalidFlag) -> InvalidInput:
    """The evaluation package's error as the service's."""
    return InvalidInput(error.violations)


def _predecessor(ref: Ref, body: JsonObject) -> Flag:
    """The members of a flag that its next version depends on. The others are not read while the store is locked."""
    return Flag(
        ref.key,
        ref.environment,
        enabled=member(body, "enabled"),
        value_type=member(body, "value_type"),
        variants=tuple(Variant(variant["name"], variant["value"]) for variant in member(body, "variants")),
        bucket_by=member(body, "bucket_by"),
        sticky=member(body, "sticky"),
        incarnation=member(body, "incarnation"),
        salt=member(body, "salt"),
    )
