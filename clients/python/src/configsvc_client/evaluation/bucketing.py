"""Decides which users are inside a percentage, and which arm of a split a user gets. A published algorithm.

Input of the hash, in bytes, where UTF8 is the plain UTF-8 encoding (no normalisation, no case folding)
and LEN the number of bytes in decimal ASCII without leading zeros::

    LEN(UTF8(salt)) ":" UTF8(salt) LEN(UTF8(unit)) ":" UTF8(unit)

for instance `6:new_ui4:u123`. The lengths keep ("ab", "c") and ("a", "bc") apart; netstrings
(D. J. Bernstein, 1997) have the same idea, here without the final comma.

The hash is MurmurHash3_x86_32 (A. Appleby, SMHasher), read as an unsigned 32-bit integer, with one of
two seeds. Gate and split have different seeds, so that the arms of a split inside a partial rollout are
not skewed: with one hash a 10 % gate would leave only the units that the split sends to its first arm.

Gate: `bucket = (hash * 100000) >> 32`, 0 to 99,999: thousandths of a percent. A unit is inside if
`bucket < percentage * 1000`. The bucket does not depend on the percentage, so raising the percentage
only adds units.

Split: `point = (hash * total) >> 32`, 0 to total - 1, where total is the sum of the weights. The arms lie
one after the other in the order of the flag's variants; arm i is chosen if `point` is below the sum
of the weights up to and including i, for the first such i. Of the 2^32 hash values an arm of weight w
gets w * 2^32 / total, to within one. Since the whole hash is scaled, there is no rounding to a percent.

Everything is integer arithmetic: no float, so no language rounds differently. `clients/python/vectors`
has test data for other implementations.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Final

import mmh3

# "gate" and "splt" in ASCII: two different numbers that are clearly not tuned. Part of the published algorithm.
GATE_SEED: Final = 0x67617465
SPLIT_SEED: Final = 0x73706C74

# A bucket is a thousandth of a percent.
BUCKETS: Final = 100_000


def length_prefixed(data: bytes) -> bytes:
    """`data` with its length in front, so that two of them can be joined without ambiguity."""
    return b"%d:%b" % (len(data), data)


def gate_bucket(prefix: bytes, unit: bytes) -> int:
    """The bucket of a unit, 0 to 99,999. `prefix` is the length-prefixed salt, made once per flag."""
    data = b"%b%d:%b" % (prefix, len(unit), unit)
    return (mmh3.mmh3_32_uintdigest(data, GATE_SEED) * BUCKETS) >> 32


def split_point(prefix: bytes, unit: bytes, total: int) -> int:
    """The point of a unit, 0 to total - 1. `prefix` is the length-prefixed salt, made once per flag."""
    data = b"%b%d:%b" % (prefix, len(unit), unit)
    return (mmh3.mmh3_32_uintdigest(data, SPLIT_SEED) * total) >> 32


def bucket(salt: str, unit: str) -> int:
    """The gate bucket of a unit under a salt: 0 to 99,999, thousandths of a percent.

    Raises UnicodeEncodeError if a text has lone surrogates, which UTF-8 can't encode.
    """
    return gate_bucket(length_prefixed(salt.encode()), unit.encode())


def split(salt: str, unit: str, weights: Sequence[int]) -> int:
    """The position in `weights` of the arm that a unit gets. Weights are not negative, their sum is above 0.

    Raises ValueError for other weights, UnicodeEncodeError for lone surrogates.
    """
    bounds = tuple(accumulate(weights))
    if not bounds or bounds[-1] <= 0 or min(weights) < 0:
        raise ValueError("weights must not be negative and must have a sum above 0")
    point = split_point(length_prefixed(salt.encode()), unit.encode(), bounds[-1])
    return next(position for position, bound in enumerate(bounds) if point < bound)
