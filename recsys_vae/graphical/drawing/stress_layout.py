"""Places for the nodes of an undirected graph: as far apart as along its edges (Gansner, Koren & North 2004)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra

Point = tuple[float, float]

_CLEARANCE = 9.0
_ROUNDS = 300


def stress_layout(
    sizes: Mapping[str, Point], edges: Sequence[tuple[str, str]], gap: float
) -> dict[str, Point]:
    """Lay out a connected graph, the longer side lying; the same input gives the same places.

    Args:
        sizes: widths and heights of the nodes, points.
        edges: pairs of nodes.
        gap: wanted between the rims of neighbours, points.
    """
    names = list(sizes)
    if len(names) == 1:
        return {names[0]: (0.0, 0.0)}
    number = {name: place for place, name in enumerate(names)}
    boxes = np.array([sizes[name] for name in names])
    ends = np.array([[number[one], number[other]] for one, other in edges])
    radius = boxes.mean(axis=1) / 2
    lengths = radius[ends].sum(axis=1) + gap
    graph = csr_array((lengths, (ends[:, 0], ends[:, 1])), shape=(len(names),) * 2)
    places = _upright(_least_stress(dijkstra(graph, directed=False)), ends)
    places = _cleared(places, boxes, ends)
    return {name: (float(x), float(y)) for name, (x, y) in zip(names, places, strict=True)}


def _least_stress(wanted: Float[np.ndarray, "nodes nodes"]) -> Float[np.ndarray, "nodes 2"]:
    """Minimise the sum of ``(distance / wanted - 1)**2`` by majorisation, from classical scaling."""
    n = len(wanted)
    centred = np.eye(n) - 1.0 / n
    values, vectors = np.linalg.eigh(-0.5 * centred @ np.square(wanted) @ centred)
    vectors *= np.where(vectors.sum(axis=0) < 0.0, -1.0, 1.0)
    places: Float[np.ndarray, "nodes 2"] = vectors[:, -2:] * np.sqrt(np.maximum(values[-2:], 0.0))
    # Nodes that scaling puts on one another, like the leaves of a star, need a nudge to part.
    apart = np.linalg.norm(places[:, None] - places[None], axis=2)
    near = (apart + np.diag(np.full(n, np.inf)) < 0.3 * wanted[wanted > 0.0].min()).any(axis=1)
    nudge = np.random.default_rng(1).standard_normal((n, 2))
    places = places + 0.1 * wanted.mean() * np.where(near[:, None], nudge, 0.0)
    weights = 1.0 / np.square(wanted + np.eye(n))
    np.fill_diagonal(weights, 0.0)
    laplacian = np.diag(weights.sum(axis=1)) - weights
    factor = cho_factor(laplacian[1:, 1:])
    for _ in range(_ROUNDS):
        apart = np.linalg.norm(places[:, None] - places[None], axis=2)
        pull = -weights * wanted / np.maximum(apart, 1e-9)
        np.fill_diagonal(pull, 0.0)
        np.fill_diagonal(pull, -pull.sum(axis=1))
        moved = np.zeros_like(places)
        moved[1:] = cho_solve(factor, (pull @ places)[1:])
        moved -= moved.mean(axis=0)
        shift = np.abs(moved - places).max()
        places = moved
        if shift < 1e-3:
            break
    return places


def _upright(
    places: Float[np.ndarray, "nodes 2"], ends: Int[np.ndarray, "edges 2"]
) -> Float[np.ndarray, "nodes 2"]:
    """Turned with most edges along the page's axes, or else its own axes there; wide; the first node top left."""
    along = places[ends[:, 1]] - places[ends[:, 0]]
    # Edges at a right angle are alike: their directions times four agree.
    fourfold = np.exp(4j * np.arctan2(along[:, 1], along[:, 0])).mean()
    angle = np.angle(fourfold) / 4
    if np.abs(fourfold) < 0.5:
        _, _, axes = np.linalg.svd(places - places.mean(axis=0), full_matrices=False)
        angle = np.arctan2(axes[0, 1], axes[0, 0])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turned: Float[np.ndarray, "nodes 2"] = (places - places.mean(axis=0)) @ turn
    if np.ptp(turned[:, 0]) < np.ptp(turned[:, 1]) - 1e-6:
        turned = turned[:, ::-1].copy()
    side = np.where(np.abs(turned[0]) > 1e-6, np.sign(turned[0]), 1.0)
    turned *= side * np.array([-1.0, 1.0])
    return turned


def _cleared(
    places: Float[np.ndarray, "nodes 2"],
    boxes: Float[np.ndarray, "nodes 2"],
    ends: Int[np.ndarray, "edges 2"],
) -> Float[np.ndarray, "nodes 2"]:
    """Push apart what overlaps: nodes with nodes, and nodes with edges of others."""
    n = len(places)
    reach = (boxes[:, None] + boxes[None]) / 2 + _CLEARANCE
    for step in range(_ROUNDS):
        push = np.zeros_like(places)
        shift = places[:, None] - places[None]
        lap = reach - np.abs(shift)
        both = (lap > 0.0).all(axis=2)
        np.fill_diagonal(both, False)
        # Along the axis where less is missing.
        axis = (lap[..., 1] < lap[..., 0]).astype(np.int64)
        rows, columns = np.nonzero(both)
        along = axis[rows, columns]
        sign = np.sign(shift[rows, columns, along])
        sign = np.where(sign == 0.0, np.where(rows < columns, -1.0, 1.0), sign)
        np.add.at(push, (rows, along), 0.5 * sign * lap[rows, columns, along])
        overlaps = len(rows)
        if n * len(ends) <= 200_000 and step < _ROUNDS // 2:
            overlaps += _push_off_edges(places, boxes, ends, push)
        if not overlaps:
            break
        places = places + push
    return places


def _push_off_edges(
    places: Float[np.ndarray, "nodes 2"],
    boxes: Float[np.ndarray, "nodes 2"],
    ends: Int[np.ndarray, "edges 2"],
    push: Float[np.ndarray, "nodes 2"],
) -> int:
    """Add to ``push`` what takes nodes off edges that are not theirs; returns how many are on one."""
    start, along = places[ends[:, 0]], places[ends[:, 1]] - places[ends[:, 0]]
    length = np.linalg.norm(along, axis=1)
    unit = along / np.maximum(length, 1e-9)[:, None]
    normal = np.stack([-unit[:, 1], unit[:, 0]], axis=1)
    away = places[:, None] - start[None]
    at, off = (away * unit).sum(axis=2), (away * normal).sum(axis=2)
    # Half of a node's box as seen along the edge's normal.
    half = boxes[:, :1] / 2 * np.abs(normal[:, 0]) + boxes[:, 1:] / 2 * np.abs(normal[:, 1])
    lap = np.minimum(half, boxes.max(axis=1, keepdims=True) / 2) + 0.5 * _CLEARANCE - np.abs(off)
    on = (lap > 0.0) & (at > 0.0) & (at < length)
    on[ends[:, 0], np.arange(len(ends))] = False
    on[ends[:, 1], np.arange(len(ends))] = False
    nodes, crossed = np.nonzero(on)
    force = 0.3 * np.where(off >= 0.0, lap, -lap)[nodes, crossed][:, None] * normal[crossed]
    np.add.at(push, nodes, force)
    np.add.at(push, ends[crossed, 0], -0.5 * force)
    np.add.at(push, ends[crossed, 1], -0.5 * force)
    return len(nodes)
