"""The rules for the fields of a request, collected so that one answer names everything that is wrong with it.

The rules that flags share with every other resource are the client package's (`configsvc_client.evaluation`): it checks a
flag by the same ones.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from configsvc_client.evaluation import limits as flag_limits
from configsvc_client.evaluation.field_rules import (
    NO_CONTROL_CHARACTERS,
    count_problem,
    has_control_characters,
    name_problem,
    text_problem,
)
from configsvc_client.evaluation.rest_names import SHADOWED_NAMES
from configsvc_client.evaluation.shadowed_names import ShadowedNames
from configsvc_client.evaluation.violations import Violation, ViolationCollector

from configsvc.domain.limits import LARGEST_KEY_CHARACTERS, Limits
from configsvc.domain.records import Author
from configsvc.errors import InvalidInput

ENVIRONMENT_CHARACTERS = flag_limits.ENVIRONMENT_CHARACTERS
FLAG_NAME_CHARACTERS = flag_limits.FLAG_NAME_CHARACTERS
SERVICE_NAME_CHARACTERS = 128
ACTOR_CHARACTERS = 256


class Fields(ViolationCollector):
    """Collects violations while a request is read."""

    def __init__(self, limits: Limits, *, prefix: str = "", by_field: dict[str, Violation] | None = None) -> None:
        super().__init__(prefix=prefix, by_field=by_field)
        self.limits = limits

    def inside(self, path: str) -> "Fields":
        """The fields of a part of the request. What is refused there is refused here."""
        return Fields(self.limits, prefix=f"{self._prefix}{path}.", by_field=self._by_field)

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Refuses the fields of an `InvalidInput` that the block raises, in place of raising it."""
        try:
            yield
        except InvalidInput as error:
            for violation in error.violations:
                self.refuse(violation.field, violation.description)

    def name(self, field_name: str, value: str, most: int, *, required: bool = True) -> str:
        """A name in the one alphabet, up to `most` characters."""
        self.check(field_name, name_problem(value, most, required=required))
        return value

    def environment(self, value: str) -> str:
        """An environment's name."""
        return self.name("environment", value, ENVIRONMENT_CHARACTERS)

    def service(self, value: str, *, required: bool = False) -> str:
        """A service's name; empty means shared."""
        return self.name("service_name", value, SERVICE_NAME_CHARACTERS, required=required)

    def flag_name(self, field_name: str, value: str) -> str:
        """The name of a flag that is written."""
        self.check(field_name, SHADOWED_NAMES.flag_name_problem(value))
        return self.name(field_name, value, FLAG_NAME_CHARACTERS)

    def key(self, value: str, field_name: str = "key", *, written: bool = False) -> str:
        """A configuration key: almost any text that a REST path can address.

        Only a key that is `written` has to keep the limit, and must not be shadowed: a key that was stored under a
        higher limit, or before the REST path that shadows it, can be read and deleted.
        """
        most = self.limits.key_characters if written else LARGEST_KEY_CHARACTERS
        if not value:
            self.refuse(field_name, f"is required: 1 to {most} characters")
        elif len(value) > most:
            self.refuse(field_name, f"must be at most {most} characters; it has {len(value)}")
        else:
            self.check(field_name, key_problem(value, shadowed=written))
        return value

    def text(self, field_name: str, value: str, most: int, *, required: bool = False) -> str:
        """Free text for people: line breaks and tabs are allowed, other control characters are not."""
        self.check(field_name, text_problem(value, most, required=required, multiline=True))
        return value

    def count(self, field_name: str, found: int, most: int, *, least: int = 0) -> None:
        """The number of items in a list."""
        self.check(field_name, count_problem(found, most, least=least))

    def page_size(self, value: int) -> int:
        """A page size; 0 means the default."""
        if value < 0 or value > self.limits.page_size:
            self.refuse("page_size", f"must be 0 (the default) to {self.limits.page_size}; it is {value}")
        return value or self.limits.default_page_size

    def version(self, field_name: str, value: int, *, least: int = 1) -> None:
        """A version of a record."""
        if value < least:
            self.refuse(field_name, f"must be a version, from {least}; it is {value}")

    def author(self, author: Author) -> Author:
        """The author of a write, and the reason."""
        self.text("x-actor", author.actor, ACTOR_CHARACTERS, required=True)
        self.text("reason", author.reason, self.limits.reason_characters)
        self.text("request_id", author.request_id, self.limits.request_id_characters)
        return author


class checked:  # noqa: N801
    """A context that reads a request; at its end it raises `InvalidInput` with everything that was refused.

    `contextlib.contextmanager` would take twice as long, and each call has such a context.
    """

    __slots__ = ("_fields",)

    def __init__(self, limits: Limits) -> None:
        self._fields = Fields(limits)

    def __enter__(self) -> Fields:
        return self._fields

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None and (violations := self._fields.violations):
            raise InvalidInput(violations)


def key_problem(key: str, *, shadowed: bool = True, names: ShadowedNames = SHADOWED_NAMES) -> str:
    """Why REST could not address this key; empty if it can. `shadowed`: whether shadowed keys are refused, too."""
    segments = key.split("/")
    if has_control_characters(key):
        return NO_CONTROL_CHARACTERS
    if "" in segments:
        return "must not start or end with '/' or have '//': URL paths do not keep them apart"
    if "." in segments or ".." in segments:
        return "must not have '.' or '..' as a path segment: HTTP clients resolve them"
    return names.key_problem(key) if shadowed else ""
