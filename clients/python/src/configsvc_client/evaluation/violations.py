"""What is wrong with a flag or a request: all of it at once, each with the path of its field."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final


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


# A foreign document may have any number of unknown members; so many of them are named.
_UNKNOWN_MEMBERS_NAMED: Final = 100


class ViolationCollector:
    """Collects violations. The first one of a field stands; later ones are its consequences.

    `prefix` comes before the name of each field that is refused here.
    """

    def __init__(self, *, prefix: str = "", by_field: dict[str, Violation] | None = None) -> None:
        self._prefix = prefix
        self._by_field = {} if by_field is None else by_field

    @property
    def violations(self) -> tuple[Violation, ...]:
        """In the order in which they were found."""
        return tuple(self._by_field.values())

    def refuse(self, field: str, description: str) -> None:
        """Records that a field can't be accepted and what is allowed, unless the field was refused before."""
        path = self._prefix + field
        self._by_field.setdefault(path, Violation(path, description))

    def check(self, field: str, problem: str) -> None:
        """Refuses the field if there is a problem; an empty text is none."""
        if problem:
            self.refuse(field, problem)

    def has_refused(self, field: str) -> bool:
        """Whether this field, or a part of it, was refused."""
        path = self._prefix + field
        parts = (f"{path}.", f"{path}[")
        return path in self._by_field or any(other.startswith(parts) for other in self._by_field)


class FlagViolations(ViolationCollector):
    """Collects what is wrong with one flag."""

    def __init__(self, *, ignore_unknown: bool = False) -> None:
        super().__init__()
        self._ignore_unknown = ignore_unknown
        self._unknown_members = 0

    def refuse_unknown(self, field: str, suggestion: str) -> None:
        """Records that a flag has no such member. `suggestion`: the member that may have been meant, or empty."""
        self._unknown_members += 1
        if self._ignore_unknown or self._unknown_members > _UNKNOWN_MEMBERS_NAMED:
            return
        suggested = f"; '{suggestion}' may be meant" if suggestion else ""
        self.refuse(field, f"is no member of a flag{suggested}")

    def raise_if_any(self) -> None:
        """Raises `InvalidFlag` with everything that was refused."""
        if self._by_field:
            raise InvalidFlag(self.violations)
