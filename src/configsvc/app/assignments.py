"""Sticky flags: what a rollout or a split gave to a user stays the user's, whatever becomes of percentage and weights.

An assignment lies in the shared cache. The first replica that makes one decides; there is no second revision of it.
What is no chance's doing (a disabled flag, a targeted user, a rule's variant) comes first, as it does without.
"""

import json
from collections.abc import Sequence
from dataclasses import replace

from configsvc_client.evaluation import Context, Evaluation, Flag, FlagSet, Reason

from configsvc.app.copies import Copy, SharedCopies
from configsvc.domain.json_values import digest

# An assignment is made where chance has decided, and kept where it would now decide otherwise.
_MADE = (Reason.SPLIT,)
_KEPT = (Reason.SPLIT, Reason.DEFAULT, Reason.STATIC)


class Assignments:
    """The assignments of sticky flags."""

    def __init__(self, copies: SharedCopies) -> None:
        self._copies = copies

    async def kept(
        self, flag_set: FlagSet, found: Sequence[tuple[Evaluation, Context]]
    ) -> Sequence[tuple[Evaluation, Context]]:
        """The same evaluations, those of sticky flags with the variant that was assigned; one look at the cache."""
        keys = [self._key(flag_set, evaluation, context) for evaluation, context in found]
        if not any(keys):
            return found
        there = dict(await self._copies.find([key for key in keys if key]))
        new = [
            _assigned(key, evaluation.variant)
            for key, (evaluation, _) in zip(keys, found, strict=True)
            if key and key not in there and evaluation.reason in _MADE
        ]
        there.update(await self._copies.settle(new))
        answer = []
        for key, (evaluation, context) in zip(keys, found, strict=True):
            flag = flag_set.get(evaluation.flag_name)
            variant = there.get(key or "", (0, None))[1]
            if key and flag is not None and isinstance(variant, str):
                # In use: it lives anew.
                self._copies.leave(_assigned(key, variant))
                evaluation = _serving(flag, evaluation, variant)
            answer.append((evaluation, context))
        return answer

    def _key(self, flag_set: FlagSet, evaluation: Evaluation, context: Context) -> str | None:
        flag = flag_set.get(evaluation.flag_name)
        if flag is None or not flag.sticky or evaluation.reason not in _KEPT or evaluation.error_code is not None:
            return None
        unit = context.attributes.get(flag.bucket_by) if flag.bucket_by else context.user_id
        if unit in (None, ""):
            return None
        return f"assignment:{flag_set.environment}:{flag.name}:{digest(flag.salt, json.dumps(unit))}"


def _assigned(key: str, variant: str) -> Copy:
    return Copy(key, 1, lambda: variant)


def _serving(flag: Flag, evaluation: Evaluation, variant: str) -> Evaluation:
    """The evaluation with another variant, where the flag still has it."""
    value = next((v.value for v in flag.all_variants if v.name == variant), None)
    if variant == evaluation.variant or value is None:
        return evaluation
    enabled = value if isinstance(value, bool) else variant != flag.served_off
    return replace(evaluation, variant=variant, value=value, reason=Reason.SPLIT, enabled=enabled)
