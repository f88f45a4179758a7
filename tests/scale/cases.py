"""Each statement of `Statements`, with the parameters that cost most in a database that `filling` filled with LARGE."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from configsvc.domain.configs import config_ref
from configsvc.domain.flags import flag_ref
from configsvc.domain.lineage import LogState
from configsvc.domain.records import Dependents, Kind, Ref, Scope
from configsvc.storage.port import EXAMINED_CHANGES, READ_BYTES, ChangeQuery, RecordQuery, RetentionPolicy
from configsvc.storage.sql.compaction import CompactionTarget
from configsvc.storage.sql.statements import Statement, Statements
from tests.scale import filling
from tests.scale.filling import LARGE

PAGE = 100
LOG_CHANGES = 256
STEP_CHANGES = 2_000
FLAGS = filling.FLAGS_ENVIRONMENT
MIDDLE = LARGE.configs // 2
ENVIRONMENT = filling.environment_name(LARGE.environments // 2)
KEYS = [filling.config_key(number) for number in range(LARGE.configs // LARGE.environments)]
REFS = [config_ref(ENVIRONMENT, "", key) for key in KEYS[:PAGE]]
HOT = config_ref(filling.HOT_ENVIRONMENT, "", filling.HOT_KEY)
MIDDLE_TIME = datetime.fromtimestamp(filling.FIRST_TIME / 1e6, UTC) + timedelta(milliseconds=MIDDLE)

CONFIGS = RecordQuery(Kind.CONFIG, ENVIRONMENT, limit=PAGE, max_bytes=READ_BYTES)
CHANGES = ChangeQuery(limit=PAGE)
STATE = LogState(LARGE.changes, 0, "history", 0, "")

# A page, the row after it, and those that a sort or a join passes on once more.
FEW_ROWS = 2 * PAGE + 100


@dataclass(frozen=True, slots=True)
class Case:
    """A statement, and how many rows any part of it may read."""

    make: Callable[[Statements], Statement | Sequence[Statement]]
    rows: int = FEW_ROWS


def searched(**filters: Any) -> Case:
    """A search that reads no more than it returns."""
    return Case(lambda s: s.search(replace(CHANGES, **filters)))


def examined(**filters: Any) -> Case:
    """A search that reads as much as a search may."""
    return Case(lambda s: s.search(replace(CHANGES, **filters)), EXAMINED_CHANGES + FEW_ROWS)


def of(ref: Ref) -> dict[str, Any]:
    """The filters of the history of a record."""
    return {"kind": ref.kind, "environment": ref.environment, "service": ref.service, "key": ref.key}


CASES: Mapping[str, Mapping[str, Case]] = {
    "records": {"a batch": Case(lambda s: s.records(REFS))},
    "reads": {
        "flags": Case(lambda s: s.reads([flag_ref(FLAGS, filling.flag_name(n)) for n in range(PAGE)])),
        # A write reads all flags of the environment only if it is about a very long chain of prerequisites.
        "all flags": Case(lambda s: s.reads([Scope(Kind.FLAG, FLAGS)]), LARGE.flags),
        "dependents": Case(lambda s: s.reads([Dependents(Kind.FLAG, FLAGS, filling.flag_name(1))])),
    },
    "page": {
        "first": Case(lambda s: s.page(CONFIGS)),
        "next": Case(lambda s: s.page(replace(CONFIGS, after=(KEYS[500], "")))),
        "of a service": Case(lambda s: s.page(replace(CONFIGS, services=("",)))),
        "effective": Case(lambda s: s.page(replace(CONFIGS, services=("", "svc"), after=(KEYS[500], "")))),
        "by prefix": Case(lambda s: s.page(replace(CONFIGS, prefix="app.key-000050"))),
        "by keys": Case(lambda s: s.page(replace(CONFIGS, keys=tuple(KEYS[:PAGE]), services=("",)))),
        "without a bound": Case(lambda s: s.page(replace(CONFIGS, max_bytes=None))),
        "last": Case(lambda s: s.page(replace(CONFIGS, after=(KEYS[-1], "zzz")))),
        "of flags": Case(lambda s: s.page(replace(CONFIGS, kind=Kind.FLAG, environment=FLAGS))),
        "instances": Case(lambda s: s.page(RecordQuery(Kind.INSTANCE, "", limit=PAGE))),
        # The registry is in memory as a whole.
        "all instances": Case(
            lambda s: s.page(RecordQuery(Kind.INSTANCE, "", limit=2 * LARGE.instances)), LARGE.instances + FEW_ROWS
        ),
    },
    "requests": {"a batch": Case(lambda s: s.requests([f"request-{number}" for number in range(1, PAGE + 1)]))},
    "version": {"one of many": Case(lambda s: s.version(HOT, LARGE.versions // 2))},
    "versions": {"many": Case(lambda s: s.versions(HOT)), "one": Case(lambda s: s.versions(REFS[0]))},
    "search": {
        "all": searched(),
        "next": searched(before=(MIDDLE, 0)),
        "history": searched(**of(HOT)),
        "history, next": searched(**of(HOT), before=(LARGE.changes - LARGE.versions // 2, 0)),
        "short history": searched(**of(REFS[0])),
        "environment": searched(environment=ENVIRONMENT),
        "environment with many": searched(environment=FLAGS),
        "actor": searched(actor="actor-17"),
        "unknown actor": searched(actor="nobody"),
        "revisions": searched(after_revision=MIDDLE, until_revision=MIDDLE + 50_000),
        "frequent reason": examined(reason="release"),
        "rare reason": examined(reason="release 17 "),
        "rare reason, next": examined(reason="release 17 ", before=(MIDDLE, 0)),
        "rare reason of an actor": examined(reason="release 17 ", actor="actor-17"),
        "rare reason in an environment": examined(reason="release 17 ", environment=ENVIRONMENT),
        "rare reason in a history": examined(reason="release 17 ", **of(HOT)),
        "kind": examined(kind=Kind.INSTANCE),
        "rare key": examined(key=filling.flag_name(17)),
        "times": examined(from_time=MIDDLE_TIME, until_time=MIDDLE_TIME + timedelta(seconds=60)),
        "until time": examined(until_time=MIDDLE_TIME),
    },
    "log": {
        "middle": Case(lambda s: s.log(MIDDLE, LOG_CHANGES, READ_BYTES), 2 * LOG_CHANGES),
        "end": Case(lambda s: s.log(LARGE.changes, LOG_CHANGES, None)),
    },
    "resume": {
        "middle": Case(lambda s: s.resume(MIDDLE, LOG_CHANGES, READ_BYTES), 2 * LOG_CHANGES),
        "end": Case(lambda s: s.resume(LARGE.changes, LOG_CHANGES, READ_BYTES)),
    },
    "state": {"": Case(lambda s: s.state())},
    "state_and_digest": {"": Case(lambda s: s.state_and_digest(MIDDLE))},
    "first_history": {"": Case(lambda s: s.first_history("history", "reason"))},
    "change_history": {"": Case(lambda s: s.change_history(STATE, STATE.with_new_history(), "reason"))},
    "origin": {"": Case(lambda s: s.origin())},
    # Once for each compaction, not under the lock, it passes over the changes that stay by their number, or that go by age.
    "compaction_target": {
        "by number": Case(lambda s: s.compaction_target(RetentionPolicy(LARGE.changes // 2)), LARGE.changes),
        "by age": Case(
            lambda s: s.compaction_target(RetentionPolicy(LARGE.changes, MIDDLE_TIME, unpublished=True)), LARGE.changes
        ),
        "nothing": Case(
            lambda s: s.compaction_target(RetentionPolicy(2 * LARGE.changes, MIDDLE_TIME - timedelta(days=9))),
            LARGE.changes,
        ),
    },
    "compaction_step": {
        "": Case(lambda s: s.compaction_step(CompactionTarget(LARGE.changes, MIDDLE), STEP_CHANGES), 2 * STEP_CHANGES)
    },
    "quiet_periods": {
        "none": Case(lambda s: s.quiet_periods(timedelta(days=1))),
        # A hundred such periods are as long as the whole log.
        "short": Case(lambda s: s.quiet_periods(timedelta(seconds=10))),
    },
    "published": {"": Case(lambda s: s.published())},
    "outbox_status": {"": Case(lambda s: s.outbox_status())},
    "advance": {"": Case(lambda s: s.advance(LARGE.changes, []))},
    "report_failure": {"": Case(lambda s: s.report_failure("reason"))},
}
