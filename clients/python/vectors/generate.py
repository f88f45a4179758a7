"""Writes bucketing.json with its own MurmurHash3, and imports nothing of this project: the two check each other.

python generate.py
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Json = Any

GATE_SEED = 0x67617465
SPLIT_SEED = 0x73706C74
MASK = 0xFFFFFFFF

# Published answers of MurmurHash3_x86_32 (SMHasher and its ports): input as hex, seed, hash.
KNOWN = (
    ("", 0, 0),
    ("", 1, 0x514E28B7),
    ("", 0xFFFFFFFF, 0x81F16F39),
    ("ffffffff", 0, 0x76293B50),
    ("21436587", 0, 0xF55B516B),
    ("21436587", 0x5082EDEE, 0x2362F9DE),
    ("214365", 0, 0x7E4A8634),
    ("2143", 0, 0xA0F7B07A),
    ("21", 0, 0x72661CF4),
    ("00000000", 0, 0x2362F9DE),
    (b"aaaa".hex(), 0x9747B28C, 0x5A97808A),
    (b"Hello, world!".hex(), 0x9747B28C, 0x24884CBA),
)


def murmur3_32(data: bytes, seed: int) -> int:
    """MurmurHash3_x86_32, unsigned, from its definition."""

    def scrambled(block: int) -> int:
        block = block * 0xCC9E2D51 & MASK
        block = (block << 15 | block >> 17) & MASK
        return block * 0x1B873593 & MASK

    state = seed
    whole = len(data) // 4 * 4
    for start in range(0, whole, 4):
        state ^= scrambled(int.from_bytes(data[start : start + 4], "little"))
        state = (state << 13 | state >> 19) & MASK
        state = (state * 5 + 0xE6546B64) & MASK
    state ^= scrambled(int.from_bytes(data[whole:], "little"))
    state ^= len(data)
    state = (state ^ state >> 16) * 0x85EBCA6B & MASK
    state = (state ^ state >> 13) * 0xC2B2AE35 & MASK
    return state ^ state >> 16


def hash_input(salt: str, unit: str) -> bytes:
    """The bytes that are hashed."""
    parts = (salt.encode(), unit.encode())
    return b"".join(str(len(part)).encode() + b":" + part for part in parts)


def bucket(salt: str, unit: str) -> int:
    """0 to 99,999."""
    return murmur3_32(hash_input(salt, unit), GATE_SEED) * 100_000 >> 32


def arm(salt: str, unit: str, weights: Sequence[int]) -> tuple[int, int]:
    """The point, and the position of the arm."""
    point = murmur3_32(hash_input(salt, unit), SPLIT_SEED) * sum(weights) >> 32
    end = 0
    for position, weight in enumerate(weights):
        end += weight
        if point < end:
            return point, position
    raise ValueError(weights)


PAIRS = (
    ("new_ui", "u123"),
    ("new_ui", "u124"),
    ("", ""),
    ("", "u123"),
    ("new_ui", ""),
    # Pairs that would have the same bytes without the lengths.
    ("ab", "c"),
    ("a", "bc"),
    ("1", ":1:1"),
    ("1:1", ":1"),
    # UTF-8 lengths, not characters; two spellings of é are two units.
    ("été", "Zoë"),
    ("e\u0301te\u0301", "Zoë"),
    ("пример", "пользователь"),
    ("标志", "用户"),
    ("🚀", "👩‍💻"),
    # Each length of the tail of the hash, and a length with more digits.
    ("s", "a"),
    ("s", "ab"),
    ("s", "abc"),
    ("s", "abcd"),
    ("s", "0123456789"),
    ("s", "x" * 99),
    ("s", "x" * 100),
    ("s", "long unit " * 500),
    ("3f0c9a52-5b0e-4b9e-8d0a-3a3f5a1e9d11", "42"),
    ("case", "User"),
    ("case", "user"),
    ("spaces", " user "),
    ("spaces", "user"),
)

WEIGHTS: tuple[tuple[int, ...], ...] = (
    (1,),
    (1, 1),
    (0, 1),
    (1, 0, 1),
    (90, 10),
    (333, 333, 334),
    (1, 999_999),
    (1_000_000,) * 100,
)


def flag(**members: Json) -> Json:
    """A flag as REST has it."""
    return {"name": "f", "environment": "test", "enabled": True, "salt": "f-1", **members}


def user(salt: str, low: int, high: int) -> str:
    """The first of user-0, user-1 … whose bucket is in [low, high)."""
    return next(u for u in map("user-{}".format, range(1_000_000)) if low <= bucket(salt, u) < high)


THREE: Json = {
    "value_type": "string",
    "variants": [{"name": name, "value": name.upper()} for name in ("red", "green", "blue")],
    "default_variant": "red",
}


def served(variant: str, value: Json, reason: str, error_code: str | None = None) -> Json:
    """The expected result of an evaluation."""
    return {"variant": variant, "value": value, "reason": reason, "error_code": error_code}


def split_served(salt: str, unit: str, arms: Sequence[tuple[str, int]]) -> Json:
    """The expected result of a split over the three colours."""
    name = arms[arm(salt, unit, [weight for _, weight in arms])[1]][0]
    return served(name, name.upper(), "SPLIT")


def evaluation(what: str, expected: Json, user_id: str = "", *flags: Json, **attributes: Json) -> Json:
    """One case: the last of the flags is evaluated."""
    context = {"user_id": user_id, "attributes": attributes}
    return {
        "what": what,
        "flags": list(flags),
        "flag_name": flags[-1]["name"],
        "context": context,
        "expected": expected,
    }


def evaluations() -> list[Json]:
    """Whole evaluations, the users chosen by their buckets."""
    inside, edge, outside = user("f-1", 0, 25_000), user("f-1", 24_900, 25_000), user("f-1", 25_000, 25_100)
    quarter = flag(rollout_percentage=25)
    halves = [{"variant": "blue", "weight": 1}, {"variant": "green", "weight": 1}]
    # By position among the variants: green before blue.
    ordered = [("green", 1), ("blue", 1)]
    german = {"attribute": "country", "operator": "equals", "values": ["de"]}
    ruled = flag(rules=[{"conditions": [german], "variant": "on"}])
    not_german = flag(rules=[{"conditions": [{**german, "negate": True}], "variant": "on"}])
    split_rule = flag(**THREE, rules=[{"conditions": [german], "split": halves}])
    account = flag(rollout_percentage=100, bucket_by="account", **THREE, rollout_split=halves)
    parent_on = flag(name="parent", rollout_percentage=100)
    parent_off = flag(name="parent", enabled=False, rollout_percentage=100)
    child = flag(rollout_percentage=100, prerequisites=[{"flag_name": "parent", "variants": ["on"]}])
    keyless = served("off", False, "ERROR", "TARGETING_KEY_MISSING")
    on, off = served("on", True, "SPLIT"), served("off", False, "DEFAULT")
    matched = served("on", True, "TARGETING_MATCH")
    return [
        evaluation("nothing depends on the context", served("off", False, "STATIC"), "u", flag()),
        evaluation("disabled", served("off", False, "DISABLED"), "u", flag(enabled=False, targeted_users=["u"])),
        evaluation("inside 25 %", on, inside, quarter),
        evaluation("just inside 25 %", on, edge, quarter),
        evaluation("just outside 25 %", off, outside, quarter),
        evaluation("targeted, though outside", matched, outside, flag(rollout_percentage=25, targeted_users=[outside])),
        evaluation("no user id where one is needed", keyless, "", quarter),
        evaluation("100 % needs no user id", on, "", flag(rollout_percentage=100)),
        evaluation("0 % needs no user id", served("off", False, "STATIC"), "", flag(rollout_percentage=0)),
        evaluation("the smallest step", on, user("f-1", 0, 1), flag(rollout_percentage=0.001)),
        evaluation("above the smallest step", off, user("f-1", 1, 3), flag(rollout_percentage=0.001)),
        evaluation("all but the last step", on, user("f-1", 99_998, 99_999), flag(rollout_percentage=99.999)),
        evaluation("the last step", off, user("f-1", 99_999, 100_000), flag(rollout_percentage=99.999)),
        evaluation("a rule matches", matched, "u", ruled, country="de"),
        evaluation("a rule does not match", off, "u", ruled, country="fr"),
        evaluation("negated, and the attribute is missing", off, "u", not_german),
        evaluation("negated, and of another type", matched, "u", not_german, country=49),
        evaluation("a list has the element", matched, "u", ruled, country=["fr", "de"]),
        evaluation("a rule's split", split_served("f-1", "u1", ordered), "u1", split_rule, country="de"),
        evaluation("another user", split_served("f-1", "u2", ordered), "u2", split_rule, country="de"),
        evaluation("by an integer", split_served("f-1", "42", ordered), "u", account, account=42),
        evaluation("42.0 is the same as 42", split_served("f-1", "42", ordered), "u", account, account=42.0),
        evaluation("by a text", split_served("f-1", "acme", ordered), "u", account, account="acme"),
        evaluation(
            "not by a boolean", served("red", "RED", "ERROR", "TARGETING_KEY_MISSING"), "u", account, account=True
        ),
        evaluation("prerequisite met", on, "u", parent_on, child),
        evaluation("prerequisite not met", served("off", False, "DISABLED"), "u", parent_off, child),
        evaluation("prerequisite missing", served("off", False, "DISABLED"), "u", child),
    ]


def vectors() -> Json:
    """The whole of bucketing.json."""
    for data, seed, expected in KNOWN:
        if murmur3_32(bytes.fromhex(data), seed) != expected:
            raise AssertionError(f"murmur3_32({data}, {seed}) is not the published hash")
    return {
        "gate_seed": GATE_SEED,
        "split_seed": SPLIT_SEED,
        "murmur3_32": [{"input_hex": d, "seed": s, "hash": h} for d, s, h in KNOWN],
        "gate": [
            {"salt": salt, "unit": unit, "input_hex": hash_input(salt, unit).hex(), "bucket": bucket(salt, unit)}
            for salt, unit in PAIRS
        ],
        "split": [
            {"salt": salt, "unit": unit, "weights": weights, "point": point, "arm": position}
            for salt, unit in PAIRS[:12]
            for weights in WEIGHTS
            for point, position in (arm(salt, unit, weights),)
        ],
        "evaluations": evaluations(),
    }


if __name__ == "__main__":
    target = Path(__file__).with_name("bucketing.json")
    target.write_text(json.dumps(vectors(), ensure_ascii=True, indent=1) + "\n", encoding="utf-8")
