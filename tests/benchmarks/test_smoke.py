"""`make bench`, small: every comparison runs, every answer is right, and the report has all its forms. No time is asserted."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import COMPARISONS
from benchmarks.comparisons.sides import EMPTY, GROUP_COMMIT, KAZOO, ON_SQLITE, OURS, PGBENCH
from benchmarks.goals import GOALS

ROOT = Path(__file__).resolve().parent.parent.parent
# A busy machine takes several times as long as an idle one.
SECONDS = 300
pytestmark = pytest.mark.timeout(SECONDS + 30)
# The tables of each comparison that a small run makes, and the sides that need no peer.
TABLES = {
    "reads": {"grpc.get.many", "grpc.evaluate.one", "grpc.discover.p99"},
    "rest": {"rest.get.many", "rest.evaluate.p50", "rest.discover.one"},
    "batches": {"bulk.many", "batch.100.many", "batch.200.one"},
    "writes": {"grpc.update.many", "grpc.update.one", "rest.update.many"},
    "watches": {"watch.1", "watch.20"},
    "registry": {"registry.register.many", "registry.heartbeat.one", "registry.discover.many"},
    "resources": {"resources.start", "resources.memory", "resources.watcher", "resources.configs"},
    "sizes": {"sizes.get", "sizes.reason", "sizes.flag_write", "sizes.resume", "sizes.start"},
    "in_process": {"in_process.rollout", "in_process.rules"},
    "group_commit": {"group_commit.postgresql.64", "group_commit.sqlite.1"},
}
SIDES = {
    "grpc.get.many": {OURS, EMPTY},
    "rest.discover.one": {OURS, EMPTY},
    "grpc.update.many": {OURS, ON_SQLITE, GROUP_COMMIT, PGBENCH},
    "watch.20": {OURS, ON_SQLITE},
    "registry.register.many": {OURS, KAZOO},
}


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a small run, without their suffixes."""
    out = tmp_path_factory.mktemp("bench") / "figures"
    command = [sys.executable, "-m", "benchmarks", "--small", "--rounds", "1", "--seconds", "0.05", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def report(figures: Path) -> Any:
    return json.loads(figures.with_suffix(".json").read_text())


def test_every_comparison_makes_its_tables(report: Any) -> None:
    keys = {table["key"] for table in report["tables"]}
    assert set(TABLES) == set(COMPARISONS)
    assert {name: wanted - keys for name, wanted in TABLES.items() if wanted - keys} == {}
    assert not set(COMPARISONS) & set(report["missing"])


def test_sides_that_need_no_peer_are_there(report: Any) -> None:
    sides = {table["key"]: {figure["side"] for figure in table["figures"]} for table in report["tables"]}
    assert {key: wanted - sides[key] for key, wanted in SIDES.items() if wanted - sides[key]} == {}


def test_no_answer_is_wrong(report: Any) -> None:
    figures = [(table["key"], figure) for table in report["tables"] for figure in table["figures"]]
    assert [(key, figure["side"], figure["errors"]) for key, figure in figures if figure["errors"]] == []
    # In a short round many clients of one row may finish nothing, and a round may add no memory.
    may_be_zero = {"grpc.update.many", "resources.watcher", "resources.configs"}
    assert [key for key, figure in figures if figure["median"] <= 0 and key not in may_be_zero] == []


def test_a_peer_is_measured_or_named_as_missing(report: Any) -> None:
    measured = {figure["side"] for table in report["tables"] for figure in table["figures"]}
    for peer in ("etcd", "unleash-edge", "Eureka"):
        assert (peer in measured) != (peer in report["missing"]), peer


def test_every_goal_has_a_verdict(report: Any, figures: Path) -> None:
    verdicts = {goal["goal"]: goal["verdict"] for goal in report["goals"]}
    assert {goal.text for goal in GOALS} <= set(verdicts)
    assert set(verdicts.values()) <= {"met", "not met", "not measured"}
    markdown = figures.with_suffix(".md").read_text()
    assert all(text in markdown for text in verdicts)


def test_the_chart_is_drawn_in_both_forms(figures: Path) -> None:
    assert figures.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in figures.with_suffix(".svg").read_text()
    assert f"]({figures.name}.svg)" in figures.with_suffix(".md").read_text()
