"""Generated from proto/ by scripts/generate_stubs.py; do not edit."""

from typing import Final

from configsvc_client.evaluation.shadowed_names import ShadowedNames

SHADOWED_NAMES: Final = ShadowedNames(
    keys=[
        "bulk",
    ],
    key_segments=[
        "history",
    ],
    key_endings=[
        ":apply",
        ":batchWrite",
        ":diff",
        ":effective",
        ":rollback",
        ":watch",
    ],
    flag_names=[
        "evaluate",
    ],
)
