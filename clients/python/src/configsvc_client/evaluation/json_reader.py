"""Reads JSON of any shape into values of the right type. A member that does not fit is recorded as a violation, never raised."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from configsvc_client.evaluation import limits
from configsvc_client.evaluation.operands import storable
from configsvc_client.evaluation.violations import FlagViolations

Json = Any
T = TypeVar("T")

_EMPTY: Mapping[str, Json] = {}


@dataclass(frozen=True, slots=True)
class Members:
    """The members of one JSON object, at `path` inside the flag.

    A member that is missing or null gives the default, as in protobuf's JSON. `refuse_unread` refuses the members that were
    not read: without it, a misspelt member would silently have its default.
    """

    source: Mapping[Any, Json]
    path: str
    violations: FlagViolations = field(compare=False)
    # Whether limits are checked: not in a flag that was accepted and stored before.
    bounded: bool = True
    _read: set[str] = field(default_factory=set, compare=False)

    def get(self, name: str) -> Json:
        """The member as it is; None if it is missing."""
        self._read.add(name)
        return self.source.get(name)

    def complete(self, read: T) -> T:
        """Refuses unread members, and returns what was read."""
        self.refuse_unread()
        return read

    def refuse_unread(self, *also: str) -> None:
        """Refuses the members that were not read and are not among `also`."""
        self._read.update(also)
        for name in self.source:
            if not isinstance(name, str) or name not in self._read:
                self.violations.refuse_unknown(self.path_of(_printable(name)), self._suggestion(name))

    def _suggestion(self, name: Any) -> str:
        """The known member that a name may stand for; empty if there is none like it."""
        plain = str(name).replace("_", "").replace("-", "").lower()[: limits.LABEL_CHARACTERS]
        return next((known for known in self._read if known.replace("_", "") == plain), "")

    @classmethod
    def of(cls, value: Json, path: str, violations: FlagViolations, *, bounded: bool = True) -> "Members":
        """The members of a value that should be an object; without members if it is not one."""
        if isinstance(value, Mapping):
            return cls(value, path, violations, bounded)
        violations.refuse(path or "flag", "must be an object")
        return cls(_EMPTY, path, violations, bounded)

    def path_of(self, name: str) -> str:
        """The path of a member."""
        return f"{self.path}.{name}" if self.path else name

    def text(self, name: str, default: str = "") -> str:
        """A string."""
        value = self.get(name)
        if value is None:
            return default
        if isinstance(value, str):
            return value
        self.violations.refuse(self.path_of(name), "must be a string")
        return default

    def boolean(self, name: str) -> bool:
        """A boolean; missing is false."""
        value = self.get(name)
        if value is None or isinstance(value, bool):
            return bool(value)
        self.violations.refuse(self.path_of(name), "must be true or false")
        return False

    def integer(self, name: str, most: int) -> int:
        """An integer from 0 to `most`. 3.0 is 3: JSON has one type of number."""
        value = self.get(name)
        if value is None:
            return 0
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        if whole and not isinstance(value, bool) and value >= 0 and (value <= most or not self.bounded):
            return int(value)
        self.violations.refuse(self.path_of(name), f"must be an integer from 0 to {most}")
        return 0

    def thousandths(self, name: str) -> int:
        """A percentage, 0 to 100 in steps of 0.001, as a number of thousandths of a percent."""
        value = self.get(name)
        if value is None:
            return 0
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 100:
            # 12.345 has no exact double: it is accepted as the double nearest to a whole number of steps.
            steps = round(value * 1000)
            if steps / 1000 == value:
                return steps
        self.violations.refuse(self.path_of(name), "must be a number from 0 to 100 in steps of 0.001")
        return 0

    def items(self, name: str, most: int) -> Iterator[tuple[str, Json]]:
        """The items of an array, each with its path. Nothing of an array that is too long."""
        value = self.get(name)
        if value is None:
            return
        if not isinstance(value, list | tuple):
            self.violations.refuse(self.path_of(name), "must be an array")
        elif self.bounded and len(value) > most:
            self.violations.refuse(self.path_of(name), f"must have at most {most} items; it has {len(value)}")
        else:
            for index, item in enumerate(value):
                yield f"{self.path_of(name)}[{index}]", item

    def objects(self, name: str, most: int) -> Iterator["Members"]:
        """The items of an array of objects."""
        for path, item in self.items(name, most):
            yield Members.of(item, path, self.violations, bounded=self.bounded)

    def texts(self, name: str, most: int) -> tuple[str, ...]:
        """An array of strings."""
        return tuple(self._text_items(name, most))

    def _text_items(self, name: str, most: int) -> Iterator[str]:
        for path, item in self.items(name, most):
            if not isinstance(item, str):
                self.violations.refuse(path, "must be a string")
                item = ""
            yield item


def _printable(name: Any) -> str:
    text = str(name).encode("ascii", "backslashreplace").decode()
    return text if len(text) <= limits.LABEL_CHARACTERS else f"{text[: limits.LABEL_CHARACTERS]}…"


def json_problem(value: Json) -> str:
    """Why a value is not JSON that every client carries as it is; empty if it is.

    Walks the value level by level, without recursion, so that no nesting can exhaust the stack.
    """
    size = 0
    level = [value]
    for _ in range(limits.VALUE_DEPTH + 1):
        deeper: list[Json] = []
        for item in level:
            if isinstance(item, Mapping):
                if not all(isinstance(name, str) and storable(name) for name in item):
                    return "must have strings without NUL and lone surrogates as member names"
                size += sum(len(name) + 3 for name in item)
                deeper.extend(item.values())
            elif isinstance(item, list | tuple):
                deeper.extend(item)
            elif problem := scalar_problem(item):
                return problem
            size += len(item.encode()) + 3 if isinstance(item, str) else 2
            if size > limits.VALUE_BYTES:
                return f"must be at most {limits.VALUE_BYTES} bytes; larger ones are configurations"
        if not deeper:
            return ""
        level = deeper
    return f"must be nested at most {limits.VALUE_DEPTH} levels deep"


def scalar_problem(value: Json) -> str:
    """Why a value that is not an array or an object is not JSON; empty if it is."""
    if value is None or isinstance(value, bool):
        return ""
    if isinstance(value, str):
        return "" if storable(value) else "must not have NUL or lone surrogates in text"
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        most = limits.LARGEST_EXACT_INTEGER
        if -most <= value <= most:
            return ""
        return f"must not have integers beyond {most} (2^53-1), which JSON clients round: send it as a string"
    if isinstance(value, float):
        # The other floats have a fraction, or are NaN or infinite.
        return "" if abs(value) < 2**53 else "must not have NaN or Infinity: JSON has no such numbers"
    return "must be JSON: null, a boolean, a number, a string, an array or an object"


def json_copy(value: Json) -> Json:
    """A copy of a JSON value as plain dicts and lists, which nothing else refers to."""
    if isinstance(value, Mapping):
        return {name: json_copy(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_copy(item) for item in value]
    return value
