"""Tables as text, Markdown and JSON."""

import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.measure import Figure, Table

COLUMNS = ("side", "median", "lowest", "highest", "ratio")


def markdown(tables: Sequence[Table], versions: Mapping[str, str]) -> str:
    """One section for each table. Ratios are to the first row of the table."""
    lines = ["# Benchmarks", "", f"{machine()}. {', '.join(f'{name} {text}' for name, text in versions.items())}.", ""]
    for table in tables:
        lines += [f"## {table.title}", "", f"{table.note} In {table.unit}.".strip(), ""]
        lines += [f"| {' | '.join(COLUMNS)} |", "|---|--:|--:|--:|--:|"]
        lines += [f"| {' | '.join(row)} |" for row in _rows(table)]
        lines.append("")
    return "\n".join(lines)


def text(table: Table) -> str:
    """One table for a terminal."""
    rows = [(table.unit, *COLUMNS[1:]), *_rows(table)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    lines = [table.title, *([f"  ({table.note})"] if table.note else [])]
    for first, *others in rows:
        right = "  ".join(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
        lines.append(f"  {first.ljust(widths[0])}  {right}")
    return "\n".join(lines) + "\n\n"


def as_json(tables: Sequence[Table], versions: Mapping[str, str]) -> str:
    """Every round of every side."""
    rows_of_tables: list[dict[str, Any]] = [
        {
            "title": table.title,
            "unit": table.unit,
            "note": table.note,
            "figures": [
                {"side": figure.side, "median": figure.median, "ratio": ratio, "rounds": list(figure.values)}
                for figure, ratio in _compared(table)
            ],
        }
        for table in tables
    ]
    return json.dumps({"machine": machine(), "versions": dict(versions), "tables": rows_of_tables}, indent=1) + "\n"


def machine() -> str:
    """The properties of the machine that affect the figures most; not its name."""
    return f"{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}"


def _compared(table: Table) -> Iterator[tuple[Figure, float]]:
    for figure in table.figures:
        yield figure, figure.ratio(table.figures[0])


def _rows(table: Table) -> Iterator[tuple[str, ...]]:
    for figure, ratio in _compared(table):
        low, high = min(figure.values), max(figure.values)
        yield (figure.side, _number(figure.median), _number(low), _number(high), f"{ratio:.2f}")


def _number(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
