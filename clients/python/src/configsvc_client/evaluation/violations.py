"""What is wrong with a flag: all of it at once, each with the path of its field."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Violation:
    """One field that can't be accepted.

    `field` is a path as the client writes it (`rules[1].conditions[0].values`); `description` says
    what is allowed.
    """

    field: str
    description: str


class InvalidFlag(ValueError):
    """A flag, or a change of one, that can't be accepted. `violations` has at least one item."""

    def __init__(self, violations: Iterable[Violation]) -> None:
        self.violations = tuple(violations)
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in self.violations))


# So many members that there are not are named; a foreign document may have any number.
_MOST_UNKNOWN = 100


class Findings:
    """Collects violations. The first one about a field stands; later ones are its consequences."""

    def __init__(self, *, ignore_unknown: bool = False) -> None:
        self._by_field: dict[str, Violation] = {}
        self._ignore_unknown = ignore_unknown
        self._unknown = 0

    @property
    def violations(self) -> tuple[Violation, ...]:
        """In the order in which they were found."""
        return tuple(self._by_field.values())

    def refuse(self, field: str, description: str) -> None:
        """Records that a field can't be accepted, unless it is known to be wrong already."""
        self._by_field.setdefault(field, Violation(field, description))

    def refuse_unknown(self, field: str, meant: str) -> None:
        """Records that there is no such member; `meant`: which one may have been meant."""
        self._unknown += 1
        if self._ignore_unknown or self._unknown > _MOST_UNKNOWN:
            return
        self.refuse(field, f"is no member of a flag; '{meant}' may be meant" if meant else "is no member of a flag")

    def under(self, field: str) -> bool:
        """Whether something in this field, or in a part of it, was refused."""
        parts = (f"{field}.", f"{field}[")
        return field in self._by_field or any(f.startswith(parts) for f in self._by_field)

    def raise_if_any(self) -> None:
        """Raises `InvalidFlag` with everything that was refused."""
        if self._by_field:
            raise InvalidFlag(self.violations)
