"""Ink for :mod:`recsys_vae.graphical.drawing.pictures`: nodes, edges that go round nodes, plates. A unit is a point."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

INK = "#1c2733"
SHADE = "#bccbdb"
PLATE_INK = "#66778a"
FONT_SIZE = 10.0
LABEL_SIZE = 9.0
LINE = 1.1
MARGIN = 12.0
DPI = 200

Point = tuple[float, float]
Polyline = Float[np.ndarray, "_ 2"]
_STYLE: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "graph", "font.family": "DejaVu Sans"}


@dataclass(frozen=True)
class Node:
    """A circle, drawn out to a capsule where its name is long; or a small filled square, which shows no name."""

    centre: Point
    size: Point
    label: str
    kind: Literal["variable", "observed", "factor"]


@dataclass(frozen=True)
class Picture:
    """What is drawn; ``bends`` are where a long edge may pass, ``plates`` labels with left, bottom, right and top."""

    nodes: Mapping[str, Node]
    edges: Sequence[tuple[str, str]]
    arrows: bool
    layered: bool
    bends: Mapping[tuple[str, str], Sequence[Point]] = field(default_factory=dict)
    plates: Sequence[tuple[str, tuple[float, float, float, float]]] = ()

    @cached_property
    def outlines(self) -> tuple[list[str], Polyline, Polyline]:
        """Names, centres and half sizes of all nodes."""
        nodes = self.nodes.values()
        halves = np.array([node.size for node in nodes]) / 2
        return list(self.nodes), np.array([node.centre for node in nodes]), halves


def text_width(text: str, size: float = FONT_SIZE) -> float:
    """In points."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextToPath

    width, _, _ = TextToPath().get_text_width_height_descent(
        text, FontProperties(family="DejaVu Sans", size=size), ismath=False
    )
    return float(width)


def write_picture(picture: Picture, path: Path) -> None:
    """As SVG or PNG, by the path's suffix; the same picture gives the same bytes."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.patches import Polygon

    routes = {edge: _route(picture, edge) for edge in picture.edges}
    corners = [np.array([n.centre]) + np.array([[-0.5], [0.5]]) * n.size for n in picture.nodes.values()]
    corners += [np.array(box).reshape(2, 2) for _, box in picture.plates]
    corners += list(routes.values())
    low, high = np.concatenate(corners).min(axis=0) - MARGIN, np.concatenate(corners).max(axis=0) + MARGIN
    with mpl.rc_context(_STYLE):
        width, height = high - low
        figure = Figure(figsize=(width / 72.0, height / 72.0), facecolor="white")
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
        axes.axis("off")
        lines = list(routes.values())
        for number, (label, box) in enumerate(picture.plates):
            _draw_plate(
                axes, label, box, [b for k, (_, b) in enumerate(picture.plates) if k != number], lines
            )
        for line in lines:
            shaft = line
            if picture.arrows:
                shaft, head = _arrow(line)
                axes.add_patch(Polygon(head, closed=True, facecolor=INK, edgecolor="none", zorder=2))
            axes.plot(shaft[:, 0], shaft[:, 1], color=INK, linewidth=LINE, solid_capstyle="butt", zorder=2)
        for node in picture.nodes.values():
            _draw_node(axes, node)
        if path.suffix.lower() == ".svg":
            nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
            figure.savefig(path, format="svg", metadata=nothing)
        else:
            figure.savefig(path, format="png", dpi=DPI, metadata={"Software": None})


def _draw_node(axes: Any, node: Node) -> None:
    from matplotlib.patches import PathPatch

    width, height = node.size
    radius = 0.0 if node.kind == "factor" else height / 2
    face = {"variable": "white", "observed": SHADE, "factor": INK}[node.kind]
    shape = _rounded(node.centre[0] - width / 2, node.centre[1] - height / 2, width, height, radius)
    axes.add_patch(PathPatch(shape, facecolor=face, edgecolor=INK, linewidth=LINE, zorder=3))
    if node.label:
        place = {"ha": "center", "va": "center_baseline", "parse_math": False, "zorder": 4}
        axes.text(*node.centre, node.label, color=INK, fontsize=FONT_SIZE, **place)


def _rounded(left: float, bottom: float, width: float, height: float, radius: float) -> Any:
    """A box whose corners are quarters of circles; with the radius half of its sides, a circle."""
    from matplotlib.path import Path as Outline

    right, top = left + width, bottom + height
    # Of a Bézier curve's handles, from the corner, where it is closest to a circle.
    near = radius * (1.0 - 4.0 / 3.0 * (2.0**0.5 - 1.0))
    points = [(left + radius, bottom)]
    codes = [int(Outline.MOVETO)]
    for x, y, into, out in (
        (right, bottom, (-1, 0), (0, 1)),
        (right, top, (0, -1), (-1, 0)),
        (left, top, (1, 0), (0, -1)),
        (left, bottom, (0, 1), (1, 0)),
    ):
        points.append((x + radius * into[0], y + radius * into[1]))
        points += [(x + near * d[0], y + near * d[1]) for d in (into, out)]
        points.append((x + radius * out[0], y + radius * out[1]))
        codes += [int(Outline.LINETO), *[int(Outline.CURVE4)] * 3]
    return Outline([*points, points[0]], [*codes, int(Outline.CLOSEPOLY)])


def _draw_plate(
    axes: Any,
    label: str,
    box: tuple[float, float, float, float],
    others: Sequence[tuple[float, float, float, float]],
    lines: Sequence[Polyline],
) -> None:
    """A rounded box, its label along the bottom: as far right as leaves it clear of edges and of other plates."""
    from matplotlib.patches import PathPatch

    left, bottom, right, top = box
    shape = _rounded(left, bottom, right - left, top - bottom, 9.0)
    axes.add_patch(PathPatch(shape, facecolor="none", edgecolor=PLATE_INK, linewidth=1.0, zorder=1))
    width, low, high = text_width(label, LABEL_SIZE), bottom + 3.0, bottom + 14.0

    def cost(end: float) -> float:
        def hit(line: Polyline) -> bool:
            x, y = line.T
            return bool(
                ((x > end - width - 5.0) & (x < end + 5.0) & (y > low - 2.0) & (y < high + 2.0)).any()
            )

        crossed = sum(map(hit, lines))
        for a, b, c, d in others:
            overlaps = a < end + 4.0 and c > end - width - 4.0 and b < high and d > low
            within = a <= left and c >= right and b <= bottom and d >= top
            crossed += overlaps and not within
        return 1e6 * crossed + (right - end)

    end = min(np.arange(right - 8.0, left + 8.0 + width - 1e-9, -3.0).tolist() or [right - 8.0], key=cost)
    place = {"ha": "right", "va": "baseline", "parse_math": False, "zorder": 4}
    axes.text(end, bottom + 5.5, label, color=PLATE_INK, fontsize=LABEL_SIZE, **place)


def _route(picture: Picture, edge: tuple[str, str]) -> Polyline:
    """Straight where no node is in the way; else a curve through the bends; else from rim to rim past all nodes."""
    start, end = (picture.nodes[name] for name in edge)
    bends = [np.array(point) for point in picture.bends.get(edge, ())]
    ends = np.array(start.centre), np.array(end.centre)
    straight = _line([ends[0], ends[1]])
    choices = [straight]
    if bends:
        choices.append(_smooth([ends[0], *bends, ends[1]]))
    # Only where nodes are in layers do the spaces between these hold none.
    if picture.layered and start.centre[1] != end.centre[1]:
        choices += _ports(start, bends, end)
    clipped = [_clipped(line, start, end) for line in choices]
    return next((line for line in clipped if not _blocked(line, picture, edge)), clipped[-1])


def _line(points: Sequence[Polyline | Float[np.ndarray, " axes"]]) -> Polyline:
    share = np.linspace(0.0, 1.0, 120)[:, None]
    return np.concatenate([a + share * (b - a) for a, b in itertools.pairwise(points)])


def _curve(*control: Float[np.ndarray, " axes"]) -> Polyline:
    """A cubic Bézier curve."""
    t = np.linspace(0.0, 1.0, 60)[:, None]
    a, b, c, d = control
    curve: Polyline = (1 - t) ** 3 * a + 3 * (1 - t) ** 2 * t * b + 3 * (1 - t) * t**2 * c + t**3 * d
    return curve


def _smooth(points: Sequence[Float[np.ndarray, " axes"]]) -> Polyline:
    """A Catmull-Rom spline."""
    padded = [points[0], *points, points[-1]]
    pieces = [
        _curve(b, b + (c - a) / 6, c - (d - b) / 6, c)
        for a, b, c, d in zip(padded, padded[1:], padded[2:], padded[3:], strict=False)
    ]
    return np.concatenate(pieces)


def _ports(start: Node, bends: Sequence[Float[np.ndarray, " axes"]], end: Node) -> list[Polyline]:
    """Out at one side, upright through every layer between, in at the other: between layers there are no nodes."""
    first, last = np.array(start.centre), np.array(end.centre)
    half = np.array([0.0, np.sign(last[1] - first[1]) * max(start.size[1], end.size[1]) / 2])
    way = [first, *bends, last]
    out, into = first + _port(start, way[1]), last + _port(end, way[-2])
    stops = [(out, out + half), *((bend - half, bend + half) for bend in bends), (into - half, into)]
    pieces = [_line(stops[0])]
    for (_, leave), (enter, inside) in itertools.pairwise(stops):
        middle = np.array([0.0, 0.5 * (enter[1] - leave[1])])
        pieces += [_curve(leave, leave + middle, enter - middle, enter), _line([enter, inside])]
    curved = np.concatenate(pieces)
    # With one straight stretch it looks calmer.
    calm = [[first, into - half, into], [out, out + half, last], [out, out + half, into - half, into]]
    return [curved] if bends else [*map(_line, calm), curved]


def _port(node: Node, towards: Float[np.ndarray, " axes"]) -> Float[np.ndarray, " axes"]:
    """Edges to the left leave left of those to the right."""
    reach = 0.32 * node.size[0]
    return np.array([np.clip(0.2 * (towards[0] - node.centre[0]), -reach, reach), 0.0])


def _distance(points: Polyline, node: Node) -> Float[np.ndarray, " _"]:
    """To the rim of a node, negative inside."""
    shift = np.abs(points - np.array(node.centre))
    width, height = node.size
    if node.kind == "factor":
        return np.asarray(np.maximum(shift[:, 0] - width / 2, shift[:, 1] - height / 2))
    core = np.array([(width - height) / 2, 0.0])
    return np.asarray(np.linalg.norm(np.maximum(shift - core, 0.0), axis=1) - height / 2)


def _clipped(line: Polyline, start: Node, end: Node) -> Polyline:
    """The part outside both ends."""
    off = np.minimum(_distance(line, start) - LINE / 2, _distance(line, end) - LINE / 2 - 0.5)
    kept = np.flatnonzero(off > 0.0)
    if len(kept) < 2 or kept[0] == 0 or kept[-1] == len(line) - 1:
        return line[[0, -1]]
    first, last = int(kept[0]), int(kept[-1])

    def rim(inside: int, outside: int) -> Polyline:
        share = off[outside] / (off[outside] - off[inside])
        point: Polyline = (line[outside] + share * (line[inside] - line[outside]))[None]
        return point

    return np.concatenate([rim(first - 1, first), line[first : last + 1], rim(last + 1, last)])


def _blocked(line: Polyline, picture: Picture, edge: tuple[str, str]) -> bool:
    """Whether it comes near a node that is none of its ends."""
    low, high = line.min(axis=0) - 4.0, line.max(axis=0) + 4.0
    names, centres, halves = picture.outlines
    near = ((centres + halves > low) & (centres - halves < high)).all(axis=1)
    others = (picture.nodes[names[k]] for k in np.flatnonzero(near) if names[k] not in edge)
    return any((_distance(line, node) < 4.0).any() for node in others)


def _arrow(line: Polyline, length: float = 7.5, width: float = 5.5) -> tuple[Polyline, Polyline]:
    """The shaft, and the head at its end."""
    tip = line[-1]
    back = np.linalg.norm(line - tip, axis=1)
    base = line[np.flatnonzero(back >= 0.85 * length)[-1] if (back >= 0.85 * length).any() else 0]
    along = (tip - base) / max(float(np.linalg.norm(tip - base)), 1e-9)
    side = np.array([-along[1], along[0]])
    head = np.array([tip, tip - length * along + side * width / 2, tip - length * along - side * width / 2])
    shaft = line[back >= 0.85 * length]
    return (shaft if len(shaft) else line[:1]), head
