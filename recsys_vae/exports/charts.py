"""Small charts as inline SVG: one series each, drawn in the page's own colours and font.

Colours are written as stand-ins that become CSS variables, so that a chart follows the reader's light or dark
theme; text stays text. The same input gives the same bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import Float, Shaped
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

_INK, _MUTED, _LINE, _ACCENT, _MARK = "#010101", "#020202", "#030303", "#040404", "#050505"
_VARIABLES = {
    _INK: "var(--ink)",
    _MUTED: "var(--muted)",
    _LINE: "var(--line)",
    _ACCENT: "var(--accent)",
    _MARK: "var(--mark)",
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 9.5,
    "text.color": _INK,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": _LINE,
    "grid.linewidth": 0.8,
    "xtick.color": _LINE,
    "ytick.color": _LINE,
    "xtick.labelcolor": _MUTED,
    "ytick.labelcolor": _MUTED,
    "ytick.major.size": 0,
    "figure.constrained_layout.use": True,
}


def line_chart(
    x: Shaped[np.ndarray, " points"],
    y: Shaped[np.ndarray, " points"],
    *,
    name: str,
    x_label: str,
    best: int | None = None,
) -> str:
    """A curve; ``best`` is the position of a point to mark. Points that are not finite are left out.

    ``name`` keeps the drawing's ids apart from those of its neighbours on the page.
    """
    with mpl.rc_context(_STYLE | {"svg.hashsalt": name}):
        figure, axes = _canvas()
        seen = np.isfinite(y)
        dots = "o" if seen.sum() <= 25 else ""
        axes.plot(x[seen], y[seen], color=_ACCENT, linewidth=1.8, marker=dots, markersize=3.5)
        if best is not None:
            axes.axvline(x[best], color=_MARK, linewidth=1, linestyle=(0, (3, 3)))
            axes.plot([x[best]], [y[best]], color=_MARK, marker="o", markersize=7)
        axes.set_xlabel(x_label)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.margins(x=0.03, y=0.08)
        return _svg(figure)


def interval_chart(
    labels: Sequence[str],
    means: Float[np.ndarray, " groups"],
    errors: Float[np.ndarray, " groups"],
    *,
    name: str,
    x_label: str,
) -> str:
    """A dot a group with a bar of one standard error either way; the axis starts at 0."""
    with mpl.rc_context(_STYLE | {"svg.hashsalt": name}):
        figure, axes = _canvas()
        place = np.arange(len(labels))
        axes.vlines(place, 0, means, color=_LINE, linewidth=1.2)
        axes.errorbar(
            place,
            means,
            yerr=np.nan_to_num(errors),
            fmt="o",
            color=_ACCENT,
            markersize=5,
            linewidth=1.8,
            capsize=4,
        )
        axes.set_xticks(place, [label.replace("$", r"\$") for label in labels])
        axes.set_xlabel(x_label)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.set_ylim(bottom=0)
        axes.margins(x=0.08)
        return _svg(figure)


def _canvas() -> tuple[Figure, Any]:
    # A Figure without pyplot: no window system, no global list of figures.
    figure = Figure(figsize=(4.6, 2.5))
    return figure, figure.add_subplot()


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # What follows is needed in an .svg file, but not inside a page, where ids must differ between charts.
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', r'<svg \1 aria-hidden="true">', text, count=1)
    text = re.sub(r'<g id="[^"]*"', "<g", text).replace("xlink:href", "href")
    for stand_in, variable in _VARIABLES.items():
        text = text.replace(stand_in, variable)
    return re.sub(r"\n\s*", "\n", text).strip()
