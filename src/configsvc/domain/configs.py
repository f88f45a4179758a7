"""Configurations: their identity, what a record of one holds, and what a caller may ask about them."""

from collections.abc import Sequence
from dataclasses import dataclass

from configsvc.domain.fields import Fields
from configsvc.domain.json_values import MISSING, Json, problem
from configsvc.domain.limits import LARGEST_KEY_CHARACTERS
from configsvc.domain.preconditions import NO_PRECONDITION, Precondition
from configsvc.domain.records import JsonObject, Kind, Record, Ref


def config_ref(environment: str, service_name: str, key: str) -> Ref:
    """The identity of a configuration. An empty service name: the value is shared by all services."""
    return Ref(Kind.CONFIG, environment, service_name, key)


def check_identity(fields: Fields, ref: Ref, *, written: bool = False) -> None:
    """Refuses what can't identify a configuration. `written`: the key must also keep the limit of today's settings."""
    fields.key(ref.key, written=written)
    fields.environment(ref.environment)
    fields.service(ref.service)


@dataclass(frozen=True, slots=True)
class Config:
    """What a record of a configuration holds."""

    value: Json = None
    description: str = ""

    @classmethod
    def of(cls, body: JsonObject) -> "Config":
        """Reads a record's body. A member that the record was stored without has its default."""
        default = cls()
        return cls(body.get("value", default.value), body.get("description", default.description))

    @property
    def body(self) -> JsonObject:
        """The body of its record."""
        return {"value": self.value, "description": self.description}


@dataclass(frozen=True, slots=True)
class ConfigDraft:
    """What a write asks a configuration to be. `value` MISSING and `description` None: as before."""

    environment: str
    service_name: str
    key: str
    value: Json
    description: str | None = None

    @classmethod
    def of(cls, ref: Ref, config: Config) -> "ConfigDraft":
        """The draft of all that a configuration held."""
        return cls(ref.environment, ref.service, ref.key, config.value, config.description)

    @property
    def ref(self) -> Ref:
        """The configuration's identity."""
        return config_ref(self.environment, self.service_name, self.key)

    def applied_to(self, before: Config) -> Config:
        """What the configuration holds after the write. The value is MISSING if neither has one."""
        return Config(
            value=before.value if self.value is MISSING else self.value,
            description=before.description if self.description is None else self.description,
        )

    @property
    def content(self) -> list[object]:
        """What a retry of the write repeats, for the fingerprint of the request."""
        return [self.description] if self.value is MISSING else [self.value, self.description]

    def check(self, fields: Fields, *, partial: bool = False) -> None:
        """Refuses contents that can't be stored. `partial`: a description alone is enough."""
        is_kept = partial and self.value is MISSING and self.description is not None
        if wrong := "" if is_kept else problem(self.value, fields.limits.value_bytes):
            fields.refuse("value", wrong)
        fields.text("description", self.description or "", fields.limits.description_characters)


@dataclass(frozen=True, slots=True)
class ConfigOperation:
    """One write of a batch: a put of `draft`, or the removal of its ref with `delete`; and its preconditions."""

    draft: ConfigDraft
    delete: bool = False
    precondition: Precondition = NO_PRECONDITION
    must_not_exist: bool = False

    @property
    def content(self) -> list[object]:
        """What a retry of the batch repeats."""
        draft = self.draft
        identity = (draft.key, draft.service_name)
        return [*draft.content, *identity, self.delete, self.precondition.content, self.must_not_exist]

    def check(self, fields: Fields) -> None:
        """Refuses what can't be accepted of the operation alone. The environment is the batch's."""
        fields.key(self.draft.key, written=not self.delete)
        fields.service(self.draft.service_name)
        if self.delete and self.must_not_exist:
            fields.refuse("must_not_exist", "must not be given with delete")
        if self.precondition.match is not None and self.must_not_exist:
            fields.refuse("must_not_exist", "must not be given with etag")
        if not self.delete:
            self.draft.check(fields, partial=not self.must_not_exist)


@dataclass(frozen=True, slots=True)
class ConfigFilter:
    """Which configurations a list or a watch selects. `service_name` None: of every service; no `keys`: all keys."""

    environment: str
    service_name: str | None = None
    keys: tuple[str, ...] = ()
    prefix: str = ""

    def check(self, fields: Fields) -> None:
        """Refuses what no configuration could match."""
        fields.environment(self.environment)
        fields.service(self.service_name or "")
        fields.count("keys", len(self.keys), fields.limits.batch_size)
        fields.text("prefix", self.prefix, LARGEST_KEY_CHARACTERS)


@dataclass(frozen=True, slots=True)
class EffectiveConfig:
    """A value as a service sees it. `record` is the service's own, or the shared one."""

    record: Record
    overrides_shared: bool

    @property
    def held_bytes(self) -> int:
        """About what the value takes in memory."""
        return self.record.held_bytes

    @property
    def source(self) -> str:
        """`service` or `shared`."""
        return "service" if self.record.ref.service else "shared"

    @property
    def etag(self) -> str:
        """The opaque tag of what the service sees.

        The record's etag is not enough: a batch can give the shared value and the service's own the same etag, and a
        record does not tell whether it hides another one.
        """
        return f"{self.record.etag}-{self.source}{'-over-shared' if self.overrides_shared else ''}"


def effective(service_name: str, records: Sequence[Record]) -> tuple[EffectiveConfig, ...]:
    """The service's own values over the shared ones. `records`: both, in the order of (key, service)."""
    shared = {record.ref.key: record for record in records if not record.ref.service}
    own = {record.ref.key: record for record in records if record.ref.service == service_name}
    return tuple(
        EffectiveConfig(own.get(key) or shared[key], key in own and key in shared) for key in sorted({*shared, *own})
    )
