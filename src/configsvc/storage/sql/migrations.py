"""The schema as a list of steps: `storage/<dialect>/migrations/0001_what_it_adds.sql`, applied in order, once each."""

from dataclasses import dataclass
from importlib.resources import files

from configsvc.errors import FailedPrecondition


@dataclass(frozen=True, slots=True)
class Migration:
    """One step. `number` counts from 1 without a gap; `sql` may hold several statements."""

    number: int
    name: str
    sql: str


def migrations_of(dialect: str) -> tuple[Migration, ...]:
    """All steps of a dialect, in order."""
    folder = files("configsvc.storage") / dialect / "migrations"
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    steps = tuple(Migration(int(name[:4]), name, (folder / name).read_text("utf-8")) for name in names)
    if [step.number for step in steps] != list(range(1, len(steps) + 1)):
        raise RuntimeError(f"migrations of {dialect} are not numbered 1, 2, 3 …: {names}")
    return steps


def missing_from(steps: tuple[Migration, ...], applied: int) -> tuple[Migration, ...]:
    """The steps after the first `applied` ones.

    Raises:
        FailedPrecondition: a newer release has migrated the database; this release could damage its data.
    """
    if applied > len(steps):
        raise FailedPrecondition(
            f"the database has schema {applied}, this release knows {len(steps)}: run a newer release",
            "STORAGE_SCHEMA_NEWER",
            {"schema": str(applied), "known": str(len(steps))},
        )
    return steps[applied:]
