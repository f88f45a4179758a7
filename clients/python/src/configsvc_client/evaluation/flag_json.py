"""Flags as JSON, the way REST shows them: reading and writing. What is read is not checked here: see `validation`."""

from typing import Any, Final, TypeVar

from configsvc_client.evaluation import limits, operands
from configsvc_client.evaluation.definition import (
    Condition,
    FlagDefinition,
    Prerequisite,
    Rule,
    Variant,
    WeightedVariant,
)
from configsvc_client.evaluation.json_reader import Members, json_copy, json_problem, scalar_problem

Json = Any
F = TypeVar("F", bound=FlagDefinition)

# Members that REST shows of a flag besides its definition.
OUTPUT_ONLY_MEMBERS: Final = ("etag", "revision", "created_at", "updated_at", "updated_by")


def read_flag(kind: type[F], members: Members) -> F:
    """The flag that the members of a JSON object describe; a member that can't be read has its default."""
    return kind(
        name=members.text("name"),
        environment=members.text("environment"),
        enabled=members.boolean("enabled"),
        value_type=members.text("value_type") or "boolean",
        variants=tuple(map(_variant, members.objects("variants", limits.VARIANTS))),
        default_variant=members.text("default_variant"),
        off_variant=members.text("off_variant"),
        on_variant=members.text("on_variant"),
        rollout_thousandths=members.thousandths("rollout_percentage"),
        rollout_split=_split(members, "rollout_split"),
        targeted_users=members.texts("targeted_users", limits.TARGETED_USERS),
        bucket_by=members.text("bucket_by"),
        sticky=members.boolean("sticky"),
        incarnation=members.text("incarnation"),
        rules=tuple(map(_rule, members.objects("rules", limits.RULES))),
        prerequisites=tuple(map(_prerequisite, members.objects("prerequisites", limits.PREREQUISITES))),
        salt=members.text("salt"),
        description=members.text("description"),
        tags=members.texts("tags", limits.TAGS),
        owner=members.text("owner"),
        version=members.integer("version", limits.LARGEST_VERSION),
        # Only a stored flag has a problem: it was read, and could not be understood, by another replica.
        problem="" if members.bounded else members.text("problem"),
    )


def written_flag(flag: FlagDefinition) -> dict[str, Json]:
    """The flag as new JSON values, every member written out."""
    return {
        "name": flag.name,
        "environment": flag.environment,
        "enabled": flag.enabled,
        "value_type": flag.value_type,
        "variants": [{"name": v.name, "value": json_copy(v.value)} for v in flag.variants],
        "default_variant": flag.default_variant,
        "off_variant": flag.off_variant,
        "on_variant": flag.on_variant,
        "rollout_percentage": flag.rollout_percentage,
        "rollout_split": _written_split(flag.rollout_split),
        "targeted_users": list(flag.targeted_users),
        "bucket_by": flag.bucket_by,
        "sticky": flag.sticky,
        "incarnation": flag.incarnation,
        "rules": [
            {
                "name": rule.name,
                "conditions": [
                    {
                        "attribute": condition.attribute,
                        "operator": condition.operator,
                        "values": list(condition.values),
                        "negate": condition.negate,
                    }
                    for condition in rule.conditions
                ],
                "variant": rule.variant,
                "split": _written_split(rule.split),
            }
            for rule in flag.rules
        ],
        "prerequisites": [{"flag_name": p.flag_name, "variants": list(p.variants)} for p in flag.prerequisites],
        "salt": flag.salt,
        "description": flag.description,
        "tags": list(flag.tags),
        "owner": flag.owner,
        "version": flag.version,
        **({"problem": flag.problem} if flag.problem else {}),
    }


def _variant(members: Members) -> Variant:
    value = members.get("value")
    if members.bounded and (problem := json_problem(value)):
        members.violations.refuse(members.path_of("value"), problem)
        value = None
    return members.complete(Variant(members.text("name"), json_copy(value)))


def _split(members: Members, name: str) -> tuple[WeightedVariant, ...]:
    return tuple(
        arm.complete(WeightedVariant(arm.text("variant"), arm.integer("weight", limits.WEIGHT)))
        for arm in members.objects(name, limits.VARIANTS)
    )


def _written_split(split: tuple[WeightedVariant, ...]) -> list[Json]:
    return [{"variant": arm.variant, "weight": arm.weight} for arm in split]


def _rule(members: Members) -> Rule:
    return members.complete(
        Rule(
            name=members.text("name"),
            conditions=tuple(map(_condition, members.objects("conditions", limits.CONDITIONS))),
            variant=members.text("variant"),
            split=_split(members, "split"),
        )
    )


def _condition(members: Members) -> Condition:
    return members.complete(
        Condition(
            attribute=members.text("attribute"),
            operator=members.text("operator"),
            values=tuple(_operands(members)),
            negate=members.boolean("negate"),
        )
    )


def _operands(members: Members) -> list[Json]:
    values: list[Json] = []
    for path, item in members.items("values", limits.CONDITION_VALUES):
        if members.bounded and (problem := scalar_problem(item)):
            is_number = isinstance(item, int | float) and item == item and abs(item) != float("inf")
            members.violations.refuse(path, operands.OPERAND_TOO_LARGE if is_number else problem)
            item = None
        values.append(item)
    return values


def _prerequisite(members: Members) -> Prerequisite:
    return members.complete(Prerequisite(members.text("flag_name"), members.texts("variants", limits.VARIANTS)))
