"""The chart: how many times as good as each peer this service is, on a logarithmic axis."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from benchmarks.comparisons.sides import EMPTY, EMPTY_GENERAL, ON_SQLITE, OURS
from benchmarks.measure import Figure, Table
from benchmarks.placement import PINNED

# Keeps the text of the SVG searchable, and its ids the same in each run.
mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "configsvc"})

# The names of this service: in a server, and in the process.
OWN = (OURS, "configsvc-client")

BETTER, WORSE = "#2a7f62", "#c0563b"
TICKS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1_000)
ROW_INCHES, WIDTH_INCHES = 0.27, 10.0


def draw(tables: Sequence[Table], *files: Path) -> bool:
    """Writes the chart to files; their suffixes say how. False if there is nothing to draw."""
    bars = _bars(tables)
    if not bars:
        return False
    canvas = Canvas(figsize=(WIDTH_INCHES, 1.4 + ROW_INCHES * len(bars)), layout="constrained")
    axes = canvas.subplots()
    places = range(len(bars), 0, -1)
    ratios = [ratio for _, ratio in bars]
    axes.barh(
        places,
        [ratio - 1 for ratio in ratios],
        left=1,
        height=0.7,
        color=[BETTER if ratio >= 1 else WORSE for ratio in ratios],
    )
    axes.set_xscale("log")
    axes.set_xlim(min(*ratios, 0.5) / 2.5, max(*ratios, 2) * 2)
    axes.set_ylim(0.3, len(bars) + 0.7)
    axes.xaxis.set_major_locator(FixedLocator(TICKS))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    axes.set_yticks(list(places), [name for name, _ in bars], fontsize=8)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    for place, ratio in zip(places, ratios, strict=True):
        away = 4 if ratio >= 1 else -4
        axes.annotate(
            f"{ratio:.2g}×" if ratio < 10 else f"{ratio:.0f}×",
            (ratio, place),
            (away, 0),
            textcoords="offset points",
            va="center",
            ha="left" if ratio >= 1 else "right",
            fontsize=7,
        )
    for spine in ("top", "right", "left"):
        axes.spines[spine].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_title("This service next to others: right of the line, it is better", loc="left", fontsize=11)
    for file in files:
        canvas.savefig(file, dpi=110, metadata={"Date": None} if file.suffix == ".svg" else None)
    return True


def _bars(tables: Sequence[Table]) -> list[tuple[str, float]]:
    """(table and peer, how many times as good), for each peer next to this service.

    Of the tables that ran at several placements, only the pinned ones. Latencies at a fixed rate are left out, and the
    empty calls, which are no peers: the tables have them.
    """
    pinned = {table.key for table in tables if table.placement == PINNED}
    return [
        (f"{table.title} · {other.side}", _better(table, ours, other))
        for table in tables
        if not table.key.startswith("sizes.") and not table.key.endswith((".p50", ".p99"))
        if table.placement == PINNED or table.key not in pinned
        if (ours := next((one for one in table.figures if one.side in OWN), None)) and ours.median
        for other in table.figures
        if other.side not in (*OWN, EMPTY, EMPTY_GENERAL, ON_SQLITE) and other.median
    ]


def _better(table: Table, ours: Figure, other: Figure) -> float:
    ratio = ours.ratio(other)
    return ratio if table.more_is_better else 1 / ratio
