"""One query to one flag set, and its result."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from configsvc_client.evaluation import Context, Evaluation, FlagNotFound, FlagSet


@dataclass(frozen=True, slots=True)
class EvaluationQuery:
    """One flag for one context."""

    flag_name: str
    context: Context
    explain: bool = False


@dataclass(frozen=True, slots=True)
class FailedItem:
    """An item of a batch that could not be evaluated; `code` is OpenFeature's."""

    flag_name: str
    user_id: str
    code: str
    message: str


Outcome: TypeAlias = Evaluation | FailedItem


def evaluate(flag_set: FlagSet, query: EvaluationQuery, assigned: Mapping[str, str]) -> Outcome:
    """The result of one query. `assigned`: the variants that sticky flags gave to this user before, by flag."""
    name = query.flag_name
    try:
        return flag_set.evaluate(name, query.context, explain=query.explain, assigned=assigned)
    except FlagNotFound:
        return FailedItem(name, query.context.user_id, "FLAG_NOT_FOUND", f"flag '{name}' does not exist")
