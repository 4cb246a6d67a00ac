"""Draw the table of ``benchmark_peers.py``: NDCG@100 against the seconds of training, one point a system.

    python scripts/plot_peers.py peers.json docs/images/peers.png

Ours are filled, peers hollow. Bars are standard errors over the splits; what is up and to the left is better.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from peer_ranking import SELECTED_BY

SHORTEST = 0.1  # seconds: what took less is drawn here, for the axis is logarithmic


def draw(rows: Sequence[dict], seconds: str) -> Figure:  # type: ignore[type-arg]
    """The figure of a table's ``rows``; ``seconds`` is "to_best" or "fit"."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    longest = max(row["seconds"][seconds] for row in rows)
    for row in rows:
        x = max(SHORTEST, row["seconds"][seconds])
        y, error = row["metrics"][SELECTED_BY]
        name, ours = row["system"].strip("*"), row["system"].startswith("*")
        colour = "tab:blue" if ours else "tab:gray"
        fill = colour if ours else "white"
        axes.errorbar(x, y, error, color=colour, marker="o", markerfacecolor=fill, capsize=2)
        # Names go to the right of their points, but where the picture ends.
        side, shift = ("right", -6) if x > longest / 2 else ("left", 6)
        axes.annotate(name, (x, y), (shift, 4), textcoords="offset points", fontsize=8, color=colour, ha=side)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    what = "until the epoch that is used" if seconds == "to_best" else "until it stops, with validation"
    axes.set(xlabel=f"seconds of training {what}", ylabel=f"test {SELECTED_BY}")
    axes.grid(alpha=0.3)
    return figure


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the table, write the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("report", type=Path, help="JSON of benchmark_peers.py")
    parser.add_argument("picture", type=Path, help=".png, .svg or .pdf")
    parser.add_argument("--seconds", choices=("to_best", "fit"), default="to_best")
    options = parser.parse_args(arguments)
    rows = json.loads(options.report.read_text()).get("table")
    if not rows:
        parser.error(
            f"report: expected a table in {options.report}, found none; let benchmark_peers.py finish"
        )
    draw(rows, options.seconds).savefig(options.picture, dpi=150)
    return 0


if __name__ == "__main__":
    sys.exit(main())
