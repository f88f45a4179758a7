"""What is asked of flags, and what is answered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from configsvc_client.evaluation import Context, Evaluation, FlagNotFound, FlagSet


@dataclass(frozen=True, slots=True)
class Asked:
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


class Evaluate(Protocol):
    """Answers questions to one flag set, in their order; `assigned` has for each what sticky flags gave before."""

    async def __call__(
        self, flag_set: FlagSet, asked: Sequence[Asked], assigned: Sequence[Mapping[str, str]]
    ) -> Sequence[Outcome]: ...


async def in_process(
    flag_set: FlagSet, asked: Sequence[Asked], assigned: Sequence[Mapping[str, str]]
) -> Sequence[Outcome]:
    """The `Evaluate` that evaluates."""
    return [_outcome(flag_set, one, known) for one, known in zip(asked, assigned, strict=True)]


def _outcome(flag_set: FlagSet, asked: Asked, assigned: Mapping[str, str]) -> Outcome:
    name = asked.flag_name
    try:
        return flag_set.evaluate(name, asked.context, explain=asked.explain, assigned=assigned)
    except FlagNotFound:
        return FailedItem(name, asked.context.user_id, "FLAG_NOT_FOUND", f"flag '{name}' does not exist")
