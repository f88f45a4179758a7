"""The report as text, Markdown and JSON."""

import json
import os
import platform
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.goals import Outcome, outcomes
from benchmarks.measure import Figure, Report, Table

COLUMNS = ("side", "median", "lowest", "highest", "ratio", "errors")
# The load client is the limit if it uses nearly all of its core.
LIMIT = 0.9


def markdown(report: Report, chart: str = "") -> str:
    """The goals, what is missing, and one section for each table. Ratios are to the first row of the table."""
    lines = ["# Benchmarks", "", f"{machine()}; {_today()}.", "", f"{_versions(report)}.", ""]
    lines += [f"![How many times as good as its peers this service is]({chart})", ""] if chart else []
    lines += ["## Goals", "", "| goal | bound | ratio | verdict |", "|---|--:|--:|---|"]
    lines += [f"| {one.goal.text} | {one.bound} | {_ratio(one)} | {one.verdict} |" for one in outcomes(report.tables)]
    if report.missing:
        lines += ["", "## Not compared", "", *(f"- {name}: {_one_line(why)}" for name, why in report.missing.items())]
    for table in report.tables:
        lines += ["", f"## {_title(table)}", "", f"In {table.unit}. {' '.join(_notes(table))}".strip(), ""]
        lines += [f"| {' | '.join(COLUMNS)} |", f"|---|{'--:|' * (len(COLUMNS) - 1)}"]
        lines += [f"| {' | '.join(row)} |" for row in _rows(table)]
    return "\n".join(lines) + "\n"


def text(table: Table) -> str:
    """One table for a terminal."""
    rows = [(table.unit, *COLUMNS[1:]), *_rows(table)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    lines = [_title(table), *(f"  ({note})" for note in _notes(table))]
    for first, *others in rows:
        right = "  ".join(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
        lines.append(f"  {first.ljust(widths[0])}  {right}")
    return "\n".join(lines) + "\n\n"


def goals_text(report: Report) -> str:
    """The goals that were measured, for a terminal."""
    measured = [one for one in outcomes(report.tables) if one.ratio is not None]
    return "".join(f"{one.verdict:>8}  {_ratio(one):>6} {one.bound:>7}  {one.goal.text}\n" for one in measured) + "\n"


def as_json(report: Report) -> str:
    """Every round of every side."""
    tables: list[dict[str, Any]] = [
        {
            **{"key": table.key, "title": table.title, "unit": table.unit, "placement": table.placement},
            "note": table.note,
            "figures": [
                {
                    **{"side": figure.side, "median": figure.median, "ratio": ratio, "errors": figure.errors},
                    **{"load_busy": round(figure.busy, 2), "rounds": list(figure.values)},
                }
                for figure, ratio in _compared(table)
            ],
        }
        for table in report.tables
    ]
    goals = [
        {"goal": one.goal.text, "bound": one.bound, "ratio": one.ratio, "verdict": one.verdict}
        for one in outcomes(report.tables)
    ]
    head = {"machine": machine(), "date": _today(), "versions": report.versions, "missing": report.missing}
    return json.dumps({**head, "goals": goals, "tables": tables}, indent=1, ensure_ascii=False) + "\n"


def machine() -> str:
    """The properties of the machine that affect the figures most; not its name."""
    found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    cores = len(os.sched_getaffinity(0))
    return (
        f"{cores} cores ({found[1] if found else platform.machine()}), {memory:.0f} GiB, Linux {platform.release()},"
        f" Python {platform.python_version()}"
    )


def _title(table: Table) -> str:
    return f"{table.title} ({table.placement})" if table.placement else table.title


def _notes(table: Table) -> Iterator[str]:
    if table.note:
        yield table.note
    for figure in table.figures:
        if figure.busy > LIMIT:
            yield f"The load client was busy for {figure.busy:.0%} of a core with '{figure.side}': it may be the limit."


def _compared(table: Table) -> Iterator[tuple[Figure, float]]:
    for figure in table.figures:
        yield figure, figure.ratio(table.figures[0])


def _rows(table: Table) -> Iterator[tuple[str, ...]]:
    for figure, ratio in _compared(table):
        low, high = min(figure.values), max(figure.values)
        numbers = (_number(figure.median), _number(low), _number(high), f"{ratio:.2f}", str(figure.errors))
        yield (figure.side, *numbers)


def _ratio(outcome: Outcome) -> str:
    return "" if outcome.ratio is None else f"{outcome.ratio:.2f}"


def _versions(report: Report) -> str:
    return ", ".join(f"{name} {version}" for name, version in report.versions.items())


def _one_line(words: str) -> str:
    return " ".join(words.split())


def _today() -> str:
    return datetime.now(UTC).date().isoformat()


def _number(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
