"""Names that the service can't give to a resource, since a path of the REST API means something else there."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ShadowedNames:
    """What the paths of the REST API shadow; `rest_names` has it for the API as it is."""

    # Whole keys, such as `bulk` in /api/v1/config/bulk.
    keys: Sequence[str]
    # Last segments of keys with several segments, such as `history` in /api/v1/config/{key=**}/history.
    key_segments: Sequence[str]
    # Endings of keys: the custom verbs of all services, such as `:rollback`. The gateway cuts them off every path.
    key_endings: Sequence[str]
    # Whole names of flags, such as `evaluate` in /api/v1/feature-flags/evaluate.
    flag_names: Sequence[str]

    def key_problem(self, key: str) -> str:
        """Why a configuration can't have this key; empty if it can."""
        first, *others = key.split("/")
        last = others[-1] if others else first
        if key in self.keys:
            return f"must not be '{key}': a REST path shadows it"
        if others and last in self.key_segments:
            return f"must not end with '/{last}': a REST path shadows it"
        for ending in self.key_endings:
            if last.endswith(ending):
                return f"must not end with '{ending}': REST takes it for a custom verb"
        return ""

    def flag_name_problem(self, name: str) -> str:
        """Why a flag can't have this name; empty if it can."""
        return f"must not be '{name}': a REST path shadows it" if name in self.flag_names else ""
