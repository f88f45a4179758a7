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


class Findings:
    """Collects violations. The first one about a field stands; later ones are its consequences."""

    def __init__(self) -> None:
        self._by_field: dict[str, Violation] = {}

    @property
    def violations(self) -> tuple[Violation, ...]:
        """In the order in which they were found."""
        return tuple(self._by_field.values())

    def refuse(self, field: str, description: str) -> None:
        """Records that a field can't be accepted, unless it is known to be wrong already."""
        self._by_field.setdefault(field, Violation(field, description))

    def under(self, field: str) -> bool:
        """Whether something in this field, or in a part of it, was refused."""
        parts = (f"{field}.", f"{field}[")
        return field in self._by_field or any(f.startswith(parts) for f in self._by_field)

    def raise_if_any(self) -> None:
        """Raises `InvalidFlag` with everything that was refused."""
        if self._by_field:
            raise InvalidFlag(self.violations)
