"""The rules for single fields, collected so that one answer names everything that is wrong with a request."""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from configsvc.domain.limits import LARGEST_KEY_CHARACTERS, Limits
from configsvc.domain.records import Author
from configsvc.errors import InvalidInput, Violation

# One alphabet for what stands alone in a URL path, a ZooKeeper node name and a Kafka key.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
NAME_ALPHABET = "letters, digits, '.', '_' and '-', starting with a letter or digit"
ENVIRONMENT_CHARACTERS = 64
SERVICE_NAME_CHARACTERS = 128
FLAG_NAME_CHARACTERS = 128
ACTOR_CHARACTERS = 256

# Custom verbs of the REST surface. A path whose last segment ends with one of them never reaches `{key=**}`.
REST_VERBS = (":batchWrite", ":diff", ":effective", ":rollback", ":watch")


@dataclass(slots=True)
class Fields:
    """Collects violations while a request is read. `prefix` comes before each field's name."""

    limits: Limits
    violations: list[Violation] = field(default_factory=list)
    prefix: str = ""

    def inside(self, path: str) -> "Fields":
        """The fields of a part of the request; what they refuse is refused here."""
        return Fields(self.limits, self.violations, f"{self.prefix}{path}.")

    def refuse(self, name: str, description: str) -> None:
        """Records that a field can't be accepted and what is allowed."""
        self.violations.append(Violation(self.prefix + name, description))

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Refuses what the block says of its input, in place of raising it."""
        try:
            yield
        except InvalidInput as error:
            for violation in error.violations:
                self.refuse(violation.field, violation.description)

    def name(self, field_name: str, value: str, most: int, *, required: bool = True) -> str:
        """A name in the one alphabet, up to `most` characters."""
        if not value:
            if required:
                self.refuse(field_name, f"is required: 1 to {most} characters: {NAME_ALPHABET}")
        elif len(value) > most or not NAME.fullmatch(value):
            self.refuse(field_name, f"must be 1 to {most} characters: {NAME_ALPHABET}")
        return value

    def environment(self, value: str) -> str:
        """An environment's name."""
        return self.name("environment", value, ENVIRONMENT_CHARACTERS)

    def service(self, value: str, *, required: bool = False) -> str:
        """A service's name; empty means shared."""
        return self.name("service_name", value, SERVICE_NAME_CHARACTERS, required=required)

    def flag_name(self, field_name: str, value: str) -> str:
        """A flag's name."""
        if value == "evaluate":
            self.refuse(field_name, "must not be 'evaluate': the REST path /feature-flags/evaluate shadows it")
        return self.name(field_name, value, FLAG_NAME_CHARACTERS)

    def key(self, value: str, field_name: str = "key", *, written: bool = False) -> str:
        """A configuration key: almost any text that a REST path can address.

        Only one that is `written` has to keep the limit: one that was stored under a higher limit can be read and deleted.
        """
        most = self.limits.key_characters if written else LARGEST_KEY_CHARACTERS
        if not value:
            self.refuse(field_name, f"is required: 1 to {most} characters")
        elif len(value) > most:
            self.refuse(field_name, f"must be at most {most} characters; it has {len(value)}")
        elif problem := unaddressable(value):
            self.refuse(field_name, problem)
        return value

    def text(self, field_name: str, value: str, most: int, *, required: bool = False) -> str:
        """Free text for people: line breaks and tabs are allowed, other control characters are not."""
        if required and not value:
            self.refuse(field_name, f"is required: 1 to {most} characters")
        elif len(value) > most:
            self.refuse(field_name, f"must be at most {most} characters; it has {len(value)}")
        elif any(_forbidden(character) and character not in "\n\r\t" for character in value):
            self.refuse(field_name, "must not have control characters (NUL among them) or lone surrogates")
        return value

    def count(self, field_name: str, found: int, most: int, *, least: int = 0) -> None:
        """The number of items in a list."""
        if found > most or found < least:
            self.refuse(field_name, f"must have {least} to {most} items; it has {found}")

    def page_size(self, value: int) -> int:
        """A page size; 0 asks for the default."""
        if value < 0 or value > self.limits.page_size:
            self.refuse("page_size", f"must be 0 (the default) to {self.limits.page_size}; it is {value}")
        return value or self.limits.default_page_size

    def version(self, field_name: str, value: int, *, least: int = 1) -> None:
        """A version of a record."""
        if value < least:
            self.refuse(field_name, f"must be a version, from {least}; it is {value}")

    def author(self, author: Author) -> Author:
        """Who writes, and why."""
        self.text("x-actor", author.actor, ACTOR_CHARACTERS, required=True)
        self.text("reason", author.reason, self.limits.reason_characters)
        self.text("request_id", author.request_id, self.limits.request_id_characters)
        return author


@contextmanager
def checked(limits: Limits) -> Iterator[Fields]:
    """Reads a request; at the end raises `InvalidInput` with everything that was refused."""
    fields = Fields(limits)
    yield fields
    if fields.violations:
        raise InvalidInput(fields.violations)


def unaddressable(key: str) -> str:
    """Why REST could not address this key; empty where it can. gRPC and REST accept the same keys."""
    segments: Sequence[str] = key.split("/")
    if any(_forbidden(character) for character in key):
        return "must not have control characters (NUL among them) or lone surrogates"
    if "" in segments:
        return "must not start or end with '/' or have '//': URL paths do not keep them apart"
    if "." in segments or ".." in segments:
        return "must not have '.' or '..' as a path segment: HTTP clients resolve them"
    if key == "bulk":
        return "must not be 'bulk': the REST path /config/bulk shadows it"
    if len(segments) > 1 and segments[-1] == "history":
        return "must not end with '/history': the REST path of the key's history shadows it"
    for verb in REST_VERBS:
        if segments[-1].endswith(verb):
            return f"must not end with '{verb}': REST takes it for a custom verb"
    return ""


def _forbidden(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs")
