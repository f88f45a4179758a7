"""The published vectors: the package agrees with them, and they are what the independent script writes."""

import json
import runpy
from pathlib import Path
from typing import Any

import mmh3
import pytest
from configsvc_client.evaluation import GATE_SEED, SPLIT_SEED, Context, Flag, FlagSet, bucket, split
from configsvc_client.evaluation.bucketing import length_prefixed, split_point

Json = Any
FOLDER = Path(__file__).parents[2] / "clients" / "python" / "vectors"
VECTORS: Json = json.loads((FOLDER / "bucketing.json").read_text(encoding="utf-8"))


def test_seeds_are_the_published_ones() -> None:
    assert (VECTORS["gate_seed"], VECTORS["split_seed"]) == (GATE_SEED, SPLIT_SEED)


def test_hash_is_murmur3_as_published() -> None:
    for case in VECTORS["murmur3_32"]:
        assert mmh3.mmh3_32_uintdigest(bytes.fromhex(case["input_hex"]), case["seed"]) == case["hash"]


def test_every_gate_vector_matches() -> None:
    for case in VECTORS["gate"]:
        data = length_prefixed(case["salt"].encode()) + length_prefixed(case["unit"].encode())
        assert data == bytes.fromhex(case["input_hex"])
        assert bucket(case["salt"], case["unit"]) == case["bucket"]


def test_every_split_vector_matches() -> None:
    for case in VECTORS["split"]:
        prefix = length_prefixed(case["salt"].encode())
        assert split_point(prefix, case["unit"].encode(), sum(case["weights"])) == case["point"]
        assert split(case["salt"], case["unit"], case["weights"]) == case["arm"]


@pytest.mark.parametrize("case", VECTORS["evaluations"], ids=lambda case: case["what"])
def test_every_whole_evaluation_matches(case: Json) -> None:
    flags = FlagSet("test", [Flag.from_json(source) for source in case["flags"]])
    result = flags.evaluate(case["flag_name"], Context(**case["context"]))
    assert {
        "variant": result.variant,
        "value": result.value,
        "reason": result.reason,
        "error_code": result.error_code,
    } == case["expected"]


def test_committed_vectors_are_what_the_independent_script_writes() -> None:
    written = runpy.run_path(str(FOLDER / "generate.py"))["vectors"]()
    assert json.loads(json.dumps(written)) == VECTORS
