"""Flags in the store: the decisions of each write. What a flag is and does is the evaluation package's.

A decision here is about its flag alone. What the flags of an environment must be together is judged after it, by
`prerequisites`.
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

_DEFAULTS = Flag("", "").to_json()
_NOT_SHOWN = ("name", "environment", "version", "incarnation")


def flag_ref(environment: str, name: str) -> Ref:
    """The identity of a flag."""
    return Ref(Kind.FLAG, environment, "", name)


def read(definition: Mapping[str, Any]) -> Flag:
    """The flag that JSON describes. Raises `InvalidInput` with every field that can't be accepted."""
    try:
        return Flag.from_json(definition)
    except InvalidFlag as error:
        raise refused(error) from error


def stored(record: Record) -> Flag:
    """The flag that a record holds, whatever the limits are now. Its version is the record's."""
    ref = record.ref
    return replace(Flag.from_stored(record.body), name=ref.key, environment=ref.environment, version=record.version)


def shown(body: JsonObject) -> JsonObject:
    """The definition in a body, as people know it: without the identity, and with what the body was written before."""
    return {name: body.get(name, member) for name, member in _DEFAULTS.items() if name not in _NOT_SHOWN}


def body(flag: Flag) -> JsonObject:
    """What a record of a flag holds. The version is the record's, and not repeated."""
    return {name: member for name, member in flag.to_json().items() if name != "version"}


def creation(flag: Flag, token: str) -> Decision:
    """The flag must not exist. `token`, new and random, is its salt if it has none, and its incarnation."""

    def decide(view: View) -> Sequence[Mutation]:
        ref = flag_ref(flag.environment, flag.name)
        if (current := view.get(ref)) is not None:
            raise already_exists(current)
        after = incarnated(None, replace(flag, salt=flag.salt or token), token)
        return (Put(ref, body(after), Action.CREATE),)

    return decide


def update(
    ref: Ref, changes: Mapping[str, Any], token: str, precondition: Precondition, *, allow_missing: bool
) -> Decision:
    """Writes these members of the definition over the current one; all others stay.

    The flag must exist, unless `allow_missing`, and be as the precondition says. What results is checked as a whole:
    raises `InvalidInput`. `token`: see `creation`.
    """

    def decide(view: View) -> Sequence[Mutation]:
        current = view.get(ref)
        precondition.check(ref, current)
        if current is None:
            if not (allow_missing or precondition.requires_absence):
                raise not_found(ref)
            return creation(read({"name": ref.key, "environment": ref.environment, **changes}), token)(view)
        after = read({**current.body, **changes})
        before = _former(current.body)
        after = replace(after, salt=after.salt or before.salt)
        try:
            check_successor(before, after)
        except InvalidFlag as error:
            raise refused(error) from error
        return (Put(ref, body(incarnated(before, after, token)), Action.UPDATE),)

    return decide


def incarnated(before: Flag | None, after: Flag, token: str) -> Flag:
    """`after` in the incarnation that it belongs to: that of `before`, or a new one, named by `token`.

    What is assigned by a sticky flag belongs to one incarnation. One ends where the flag is deleted, disabled or no
    longer sticky, and where an assignment would mean something else: to other units, or of another type. So a new one
    begins with each write that changes any of this, and never with the ones that an assignment is kept through.
    """
    if not after.sticky:
        return replace(after, incarnation="")
    if before is not None and _assigning(before) == _assigning(after):
        return replace(after, incarnation=before.incarnation)
    return replace(after, incarnation=token)


def _assigning(flag: Flag) -> tuple[object, ...]:
    return flag.enabled, flag.sticky, flag.bucket_by or USER_ID, flag.value_type


def refused(error: InvalidFlag) -> InvalidInput:
    """The evaluation package's error as the service's."""
    return InvalidInput(error.violations)


def _former(body: JsonObject) -> Flag:
    """What is asked of a flag when the next version follows it. The rest need not be read while the store is locked."""
    return Flag(
        body["name"],
        body["environment"],
        enabled=body["enabled"],
        value_type=body["value_type"],
        variants=tuple(Variant(variant["name"], variant["value"]) for variant in body["variants"]),
        bucket_by=body["bucket_by"],
        sticky=body.get("sticky", False),
        incarnation=body.get("incarnation", ""),
        salt=body["salt"],
    )
