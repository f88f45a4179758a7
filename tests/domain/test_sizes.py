"""The size of values in memory."""

import json
import tracemalloc

import pytest

from configsvc.domain.sizes import held_bytes


@pytest.mark.parametrize(
    "value",
    ["x" * 100_000, "ü" * 100_000, "🎉" * 50_000, [0.5 + n for n in range(20_000)], list(range(20_000)),
     [f"text {n}" for n in range(20_000)], [{"a": n} for n in range(10_000)], [[] for _ in range(20_000)],
     [{} for _ in range(20_000)], {f"name {n}": n for n in range(20_000)}],
    ids=["ascii", "latin", "emoji", "floats", "integers", "texts", "objects", "lists", "empty", "members"],
)  # fmt: skip
def test_estimate_of_held_bytes_is_at_least_half_of_the_real_size(value: object) -> None:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    tracemalloc.start()
    try:
        kept = json.loads(text)
        takes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept == value
    assert takes / 2 <= held_bytes(text) <= takes * 12
