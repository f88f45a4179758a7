"""The limits of a flag. Each protects the evaluator; the protos name the ones that users meet."""

from typing import Final

# Names in URL paths: their alphabet is in `field_rules`.
FLAG_NAME_CHARACTERS: Final = 128
ENVIRONMENT_CHARACTERS: Final = 64

# Names that people read: variants, rules, attributes, tags, salts.
LABEL_CHARACTERS: Final = 128
OWNER_CHARACTERS: Final = 256
DESCRIPTION_CHARACTERS: Final = 4_096
TAGS: Final = 64

# Experiments have fewer than ten arms; each variant's results are made in advance.
VARIANTS: Final = 100
# Rules are tried one after the other: at 0.3 µs for a simple condition the longest list stays under 2 ms.
RULES: Final = 100
CONDITIONS: Final = 64
PREREQUISITES: Final = 32
# Targeting is one set look-up at any size, but every client gets the whole flag: 100,000 UUIDs are 4 MB.
TARGETED_USERS: Final = 100_000
USER_ID_CHARACTERS: Final = 512
# `in` is a set look-up too; beyond this a segment belongs into an attribute of the user.
CONDITION_VALUES: Final = 10_000
CONDITION_VALUE_CHARACTERS: Final = 1_024
# Each value of these is tried on its own, so their number bounds the time of one condition.
SCANNED_VALUES: Final = 100
PATTERN_CHARACTERS: Final = 1_000
# A short pattern can compile to a large program, so the memory of one and the number in a flag are both bounded:
# at most 25 MiB a flag; RE2's own default of 8 MiB a pattern would allow 800.
PATTERN_BYTES: Final = 1 << 18
PATTERNS: Final = 100
# Semver and RFC 3339 texts are short; `int()` refuses very long digits, or is slow on them.
OPERAND_CHARACTERS: Final = 128

# Weights are relative; a million allows shares of 0.0001 %. The sum over 100 variants stays below 2^32.
WEIGHT: Final = 1_000_000

# A variant's value is copied on each evaluation of an object flag; larger documents are configurations.
VALUE_BYTES: Final = 65_536
# protobuf parsers stop at 100 nested messages, and each level of a JSON object takes three of them.
VALUE_DEPTH: Final = 24
# Above this a double, and so most JSON clients, can't tell neighbouring integers apart.
LARGEST_EXACT_INTEGER: Final = 2**53 - 1

# A percentage in thousandths: 100 %.
WHOLE_THOUSANDTHS: Final = 100_000
# proto int32.
LARGEST_VERSION: Final = 2**31 - 1
