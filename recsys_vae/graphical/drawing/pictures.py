"""Pictures of graphs as in Bishop (2006), chapter 8: arrows or lines, factors, shaded observations and plates."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from recsys_vae.atomic import atomic_path, explain_full_disk
from recsys_vae.errors import UserError
from recsys_vae.graphical.directed import Parents
from recsys_vae.graphical.drawing.canvas import LABEL_SIZE, Node, Picture, Point, text_width, write_picture
from recsys_vae.graphical.drawing.layered_layout import Layout, layered_layout
from recsys_vae.graphical.drawing.placement import PlateBox
from recsys_vae.graphical.drawing.stress_layout import stress_layout
from recsys_vae.graphical.factor_graph import FactorGraph
from recsys_vae.graphical.markov_random_field import MarkovRandomField
from recsys_vae.graphical.undirected import Neighbours, connected_components

MAX_NODES = 2000
_NODE_HEIGHT = 30.0
_FACTOR_SIZE = 9.0
_LINE_GAP = 38.0
_FACTOR_GAP = 22.0
_PART_GAP = 30.0


@runtime_checkable
class DirectedGraph(Protocol):
    """Drawn with arrows."""

    @property
    def parents(self) -> Parents:
        """Of each node, those that an arrow comes from."""
        ...


@runtime_checkable
class UndirectedGraph(Protocol):
    """Drawn with lines."""

    def neighbours(self) -> Neighbours:
        """Of each node, those that a line joins it to."""
        ...


class Plate(NamedTuple):
    """A box around nodes that come several times; the label says how often, or for what."""

    label: str
    names: Collection[str]


def draw(
    graph: DirectedGraph | UndirectedGraph,
    path: str | Path,
    *,
    observed: Iterable[str] = (),
    plates: Iterable[Plate | tuple[str, Collection[str]]] = (),
) -> Path:
    """Write a picture of a graph as SVG or PNG, and return its path.

    Directed graphs, and all graphs with plates, are laid out in layers; other graphs so that distances on paper follow
    those in the graph. In a factor graph circles are variables and filled squares are factors. The same graph gives
    the same file, which is either whole or absent. In an SVG text stays text.

    Args:
        graph: a Bayesian or linear-Gaussian network, a Markov random field, a factor graph; or whatever has
            ``parents``, or ``neighbours()``.
        path: ends in ``.svg`` or ``.png``.
        observed: shaded nodes, such as the names in some evidence.
        plates: labels and the nodes around which they go. Plates may lie within each other, or cross.

    Raises :class:`UserError` for unknown nodes, another suffix, a folder that does not exist, a graph without nodes or
    with more than 2,000, and plates that no layout can box apart.
    """
    target = _checked_path(path)
    neighbours, parents = _edges_of(graph)
    squares = set(neighbours) - set(_names_of(graph))
    if not 0 < len(neighbours) <= MAX_NODES:
        raise UserError(f"graph: expected 1 to {MAX_NODES:,} nodes to draw, came {len(neighbours):,}")
    shaded = {observed} if isinstance(observed, str) else set(observed)
    boxes = _checked_plates(plates)
    for argument, names in (("observed", shaded), *(("plates", set(plate.names)) for plate in boxes)):
        for name in sorted(names):
            if name not in neighbours or name in squares:
                raise UserError(f"{argument}: expected nodes of the graph, came {name!r}")
    sizes = {
        name: (_FACTOR_SIZE, _FACTOR_SIZE)
        if name in squares
        else (max(_NODE_HEIGHT, text_width(name) + 16.0), _NODE_HEIGHT)
        for name in neighbours
    }
    directed = isinstance(graph, DirectedGraph)
    plate_boxes = _with_inner_factors(boxes, neighbours, squares)
    layout = _layout(neighbours, parents, sizes, directed, plate_boxes)
    nodes = {
        name: Node(
            layout.centres[name],
            sizes[name],
            "" if name in squares else name,
            "factor" if name in squares else "observed" if name in shaded else "variable",
        )
        for name in neighbours
    }
    edges = [(parent, name) for name, above in parents.items() for parent in dict.fromkeys(above)]
    labels = [plate.label for plate in boxes]
    picture = Picture(
        nodes,
        edges,
        directed,
        directed or bool(boxes),
        layout.bends,
        list(zip(labels, layout.plates, strict=True)),
    )
    with explain_full_disk("path", target), atomic_path(target) as temporary:
        write_picture(picture, temporary)
    return target


def _checked_path(path: str | Path) -> Path:
    target = Path(path)
    if target.suffix.lower() not in (".svg", ".png"):
        raise UserError(f"path: expected a name ending in .svg or .png, came {str(path)!r}")
    if not target.parent.is_dir():
        raise UserError(f"path: expected an existing folder, {target.parent} does not exist")
    if target.is_dir():
        raise UserError(f"path: expected a file, {target} is a directory")
    return target


def _checked_plates(plates: Iterable[Plate | tuple[str, Collection[str]]]) -> list[Plate]:
    checked = []
    for given in plates:
        if not isinstance(given, tuple) or len(given) != 2 or not isinstance(given[0], str):
            raise UserError(f"plates: expected pairs of a label and names, came {given!r}")
        label, names = given
        names = [names] if isinstance(names, str) else list(names)
        if not names:
            raise UserError(f"plates: expected at least one node in {label!r}, came none")
        checked.append(Plate(label, names))
    return checked


def _names_of(graph: DirectedGraph | UndirectedGraph) -> Collection[str]:
    return graph.parents if isinstance(graph, DirectedGraph) else graph.neighbours()


def _edges_of(graph: DirectedGraph | UndirectedGraph) -> tuple[dict[str, set[str]], dict[str, list[str]]]:
    """The graph without arrows, and with: where it has none, from the node that comes first to the other."""
    if isinstance(graph, DirectedGraph):
        parents = {name: list(above) for name, above in graph.parents.items()}
    elif isinstance(graph, FactorGraph) and not isinstance(graph, MarkovRandomField):
        parents = _factor_edges(graph)
    elif isinstance(graph, UndirectedGraph):
        around = graph.neighbours()
        rank = {name: place for place, name in enumerate(around)}
        parents = {n: sorted((o for o in around[n] if rank[o] < rank[n]), key=rank.get) for n in around}  # type: ignore[arg-type]
    else:
        raise UserError(f"graph: expected a graph with parents or neighbours(), came {type(graph).__name__}")
    joined: dict[str, set[str]] = {name: set(above) for name, above in parents.items()}
    for name, above in parents.items():
        for parent in above:
            joined[parent].add(name)
    return joined, parents


def _factor_edges(graph: FactorGraph) -> dict[str, list[str]]:
    """A node for each factor, between its variables: below the first of them and above the others."""
    rank = {name: place for place, name in enumerate(graph.states)}
    parents: dict[str, list[str]] = {name: [] for name in graph.states}
    for number, potential in enumerate(graph.log_potentials):
        # No variable's name is empty, so none can begin with this.
        factor = f"\0{number}"
        scope = sorted(potential.variables, key=rank.__getitem__)
        parents[factor] = scope[:1] if len(scope) > 1 else []
        for name in scope[1:] if len(scope) > 1 else scope:
            parents[name].append(factor)
    return parents


def _with_inner_factors(
    plates: Sequence[Plate], neighbours: Neighbours, squares: Collection[str]
) -> list[PlateBox]:
    """A factor belongs to every plate that one of its variables is in."""
    members = []
    for plate in plates:
        inside = set(plate.names)
        inside |= {square for square in squares if neighbours[square] & set(plate.names)}
        members.append([name for name in neighbours if name in inside])
    # Of plates that share nodes the smaller is drawn within the larger, or its borders are kept off the other's.
    level: dict[int, int] = {}
    for number in sorted(range(len(plates)), key=lambda number: len(members[number])):
        touching = [level[other] for other in level if set(members[other]) & set(members[number])]
        level[number] = 1 + max(touching, default=0)
    return [
        PlateBox(inside, text_width(plate.label, LABEL_SIZE), level[number])
        for number, (plate, inside) in enumerate(zip(plates, members, strict=True))
    ]


def _layout(
    neighbours: Neighbours,
    parents: Parents,
    sizes: Mapping[str, Point],
    directed: bool,
    plates: Sequence[PlateBox],
) -> Layout:
    """Each part that edges and plates hold together by itself, then all parts in rows."""
    held = {name: set(others) for name, others in neighbours.items()}
    for plate in plates:
        first, *rest = plate.members
        held[first] |= set(rest)
        for name in rest:
            held[name].add(first)
    parts = []
    for part in sorted(connected_components(held), key=lambda part: len(part) == 1):
        names = [name for name in parents if name in part]
        own = {name: sizes[name] for name in names}
        inside = [number for number, plate in enumerate(plates) if set(plate.members) & part]
        if directed or inside:
            above = {name: parents[name] for name in names}
            parts.append((inside, layered_layout(above, own, [plates[number] for number in inside])))
        else:
            edges = [(parent, name) for name in names for parent in parents[name]]
            squares = min(size[1] for size in own.values()) == _FACTOR_SIZE
            places = stress_layout(own, edges, _FACTOR_GAP if squares else _LINE_GAP)
            parts.append((inside, Layout(places, {}, [])))
    return _in_rows(parts, sizes, len(plates))


def _in_rows(
    parts: Sequence[tuple[Sequence[int], Layout]], sizes: Mapping[str, Point], n_plates: int
) -> Layout:
    """Parts side by side, in rows about one and a half times as wide as all are tall."""
    extents = []
    for _, layout in parts:
        half = {name: (sizes[name][0] / 2, sizes[name][1] / 2) for name in layout.centres}
        boxes = [
            (x - half[n][0], y - half[n][1], x + half[n][0], y + half[n][1])
            for n, (x, y) in layout.centres.items()
        ]
        boxes += layout.plates
        boxes += [(*point, *point) for points in layout.bends.values() for point in points]
        extents.append(tuple(pick(box[k] for box in boxes) for k, pick in enumerate((min, min, max, max))))
    areas = [(right - left + _PART_GAP) * (top - low + _PART_GAP) for left, low, right, top in extents]
    wide = max([1.25 * math.sqrt(sum(areas)), *(right - left for left, _, right, _ in extents)])
    whole = Layout({}, {}, [(0.0, 0.0, 0.0, 0.0)] * n_plates)
    x = y = tall = 0.0
    for (inside, layout), (left, low, right, top) in zip(parts, extents, strict=True):
        if x and x + right - left > wide:
            x, y, tall = 0.0, y - tall - _PART_GAP, 0.0
        dx, dy = x - left, y - top
        whole.centres.update({name: (a + dx, b + dy) for name, (a, b) in layout.centres.items()})
        whole.bends.update({e: [(a + dx, b + dy) for a, b in points] for e, points in layout.bends.items()})
        for number, (a, b, c, d) in zip(inside, layout.plates, strict=True):
            whole.plates[number] = (a + dx, b + dy, c + dx, d + dy)
        x, tall = x + right - left + _PART_GAP, max(tall, top - low)
    return whole
