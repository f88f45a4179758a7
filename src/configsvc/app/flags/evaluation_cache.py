"""Evaluations that replicas share: found in the shared cache before they are made, and left there after.

Off by default. An evaluation takes about a microsecond in process, and a look into the cache a round trip
(`benchmarks/`, "shared evaluations"). It is for those who want one replica's answer to be every replica's.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from configsvc_client.evaluation import ErrorCode, Evaluation, FlagSet, Reason

from configsvc.app.flags.evaluation import Asked, Evaluate, Outcome
from configsvc.cache.port import Cache, CacheEntry
from configsvc.domain.json_values import digest, encoded

# What lies under a key follows from the key alone, so there is one revision of it.
_REVISION = 1


class SharedEvaluations:
    """An `Evaluate` before another one.

    The key has everything that an evaluation follows from: the log's history, the flag, its version and those of its
    prerequisites, the context, and what is assigned. So a change of a flag needs no clearing: nobody asks for the old
    key any more. `history_of` says which history a set is of; empty: nobody knows, and nothing is shared.
    """

    def __init__(self, inner: Evaluate, cache: Cache, life: timedelta, history_of: Callable[[FlagSet], str]) -> None:
        self._history_of = history_of
        self._inner = inner
        self._cache = cache
        self._life = life

    async def __call__(
        self, flag_set: FlagSet, asked: Sequence[Asked], assigned: Sequence[Mapping[str, str]]
    ) -> Sequence[Outcome]:
        """Looks all of them up in one round trip; explanations are never shared."""
        # Most batches have one context.
        contexts = {id(one.context): one.context for one in asked}
        digests = {number: digest(c.user_id, c.attributes) for number, c in contexts.items()}
        history = self._history_of(flag_set)
        keys = [
            _key(history, flag_set, one, known, digests[id(one.context)])
            for one, known in zip(asked, assigned, strict=True)
        ]
        found = await self._cache.get([key for key in keys if key])
        outcomes: list[Outcome | None] = [_read(found.get(key)) for key in keys]
        missing = [place for place, outcome in enumerate(outcomes) if outcome is None]
        made = await self._inner(flag_set, [asked[place] for place in missing], [assigned[place] for place in missing])
        new: dict[str, CacheEntry] = {}
        for place, outcome in zip(missing, made, strict=True):
            outcomes[place] = outcome
            # A flag that this release can't read may be none to others.
            if keys[place] and isinstance(outcome, Evaluation) and outcome.error_code is not ErrorCode.PARSE_ERROR:
                new[keys[place]] = CacheEntry(_REVISION, _written(outcome))
        if new:
            await self._cache.put(new, self._life)
        return [outcome for outcome in outcomes if outcome is not None]


def _key(history: str, flag_set: FlagSet, asked: Asked, assigned: Mapping[str, str], context: str) -> str:
    """Empty where the evaluation is not to be shared."""
    if not history or asked.explain or asked.flag_name not in flag_set:
        return ""
    flag, *required = flag_set.required_by(asked.flag_name)
    versions = sorted((other.name, other.version) for other in required)
    more = digest(versions, assigned) if versions or assigned else ""
    return f"{history}:evaluation:{flag_set.environment}:{flag.name}:{flag.version}:{context}:{more}"


def _written(evaluation: Evaluation) -> bytes:
    members: list[Any] = [
        evaluation.flag_name, evaluation.value, evaluation.variant, evaluation.reason, evaluation.enabled,
        evaluation.version, evaluation.error_code, evaluation.error_message,
    ]  # fmt: skip
    return encoded(members).encode()


def _read(entry: CacheEntry | None) -> Evaluation | None:
    """The evaluation in an entry; None where there is none, or it is another release's."""
    if entry is None:
        return None
    try:
        name, value, variant, reason, enabled, version, code, message = json.loads(entry.payload)
        return Evaluation(
            name, value, variant, Reason(reason), enabled, version, ErrorCode(code) if code else None, message
        )
    except (ValueError, TypeError):
        return None
