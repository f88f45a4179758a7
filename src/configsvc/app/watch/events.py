"""The events of a watch. Except for `Notified`, they are the events of the proto's watch responses."""

from dataclasses import dataclass

from configsvc.domain.records import Change, Record


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A part of the opening state. A record that comes again replaces the earlier one."""

    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class Synced:
    """The opening state is complete: nothing up to `revision` is missing. Comes once, before the first change."""

    revision: int


@dataclass(frozen=True, slots=True)
class Changed:
    """A change. All watchers share the event, so that it is encoded once: see `identity`.

    `completes`: the watcher gets no other change of this revision, so it can resume after the revision. A write of
    several records is one revision. A watch that is cut off inside it resumes after the revision before it, or it would
    lose the rest. `completes` is never true too early. It may be false for the last change that comes, if the watcher
    already has the changes after it, or later ones of the same records.
    """

    change: Change
    completes: bool = True

    @property
    def identity(self) -> tuple[int, int, bool]:
        """Equal for events that have the same encoding."""
        return self.change.revision, self.change.ordinal, self.completes


@dataclass(frozen=True, slots=True)
class Progress:
    """The watcher has got every change up to `revision`."""

    revision: int


@dataclass(frozen=True, slots=True)
class Notified:
    """Something outside the log has changed for this watcher (`WatchHub.notify`). It comes in its turn, like a change."""


WatchEvent = Snapshot | Synced | Changed | Progress | Notified
