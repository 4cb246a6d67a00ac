"""Places for the nodes of a directed graph: in layers, arrows downwards (Sugiyama, Tagawa & Toda 1981), within plates.

Lengths are points. Within a layer the order has few crossings; the places minimise the squared lengths of the edges.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right, insort
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from recsys_vae.graphical.directed import Parents, children_of, topological_order
from recsys_vae.graphical.drawing.placement import PLATE_PAD, Placement, PlateBox
from recsys_vae.graphical.drawing.plate_layout import depths, keep_legible, left_to_right, sides

LAYER_GAP = 40.0
LABEL_HEIGHT = 13.0
_BEND_WIDTH = 6.0
_SLOPE = 0.17
_CLEARANCE = 18.0
_SWEEPS = 24

Point = tuple[float, float]


class Layout(NamedTuple):
    """Centres of the nodes, where long edges pass the layers between their ends, and the plates' corners."""

    centres: dict[str, Point]
    bends: dict[tuple[str, str], list[Point]]
    plates: list[tuple[float, float, float, float]]


def layered_layout(parents: Parents, sizes: Mapping[str, Point], plates: Sequence[PlateBox] = ()) -> Layout:
    """Lay out an acyclic graph; ``sizes`` are the nodes' widths and heights.

    Raises :class:`UserError` for a directed cycle, and for plates that no drawing in layers can tell apart.
    """
    layer_of = _layers(parents)
    names = list(parents)
    number = {name: place for place, name in enumerate(names)}
    layers: list[list[int]] = [[] for _ in range(1 + max(layer_of.values()))]
    for name in topological_order(parents):
        layers[layer_of[name]].append(number[name])
    # A long edge passes a bend in every layer between; bends are numbered after the nodes.
    widths = [sizes[name][0] for name in names]
    segments: list[tuple[int, int]] = []
    bends: dict[tuple[str, str], list[int]] = {}
    for name, above in parents.items():
        for parent in dict.fromkeys(above):
            trail = []
            for layer in range(layer_of[parent] + 1, layer_of[name]):
                trail.append(len(widths))
                layers[layer].append(len(widths))
                widths.append(_BEND_WIDTH)
            bends[parent, name] = trail
            stops = [number[parent], *trail, number[name]]
            segments += itertools.pairwise(stops)
    layers = _few_crossings(layers, segments)
    members = [[number[name] for name in dict.fromkeys(plate.members)] for plate in plates]
    problem = Placement(widths, len(names), segments, len(plates))
    problem.keep_order(layers)
    places = problem.solve()
    if plates:
        layer_at = {node: k for k, layer in enumerate(layers) for node in layer}
        beside = sides(places, layer_at, len(names), members)
        rank = {node: place for place, node in enumerate(left_to_right(places, beside))}
        layers = [sorted(layer, key=rank.__getitem__) for layer in layers]
        problem = Placement(widths, len(names), segments, len(plates))
        problem.keep_order(layers)
        for plate, (box, inside) in enumerate(zip(plates, members, strict=True)):
            problem.enclose(plate, inside, box)
        problem.keep_apart(beside)
        keep_legible(problem, plates, members, beside, segments, places)
        places = problem.solve()

    height = max(tall for _, tall in sizes.values())
    y = [0.0]
    layer_at = {node: k for k, layer in enumerate(layers) for node in layer}
    first = [min(layer_at[node] for node in inside) for inside in members]
    last = [max(layer_at[node] for node in inside) for inside in members]
    over = [PLATE_PAD * depth for depth in depths(plates, members, first)]
    under = [(PLATE_PAD + LABEL_HEIGHT) * depth for depth in depths(plates, members, last)]
    gaps = _gaps(layers, segments, places)
    for k in range(len(gaps)):
        ending = max((room for room, at in zip(under, last, strict=True) if at == k), default=0.0)
        beginning = max((room for room, at in zip(over, first, strict=True) if at == k + 1), default=0.0)
        gaps[k] = max(gaps[k], _CLEARANCE + ending + beginning)
    for gap in gaps:
        y.append(y[-1] - height - gap)
    boxes = []
    for plate in range(len(plates)):
        left, right = places[list(problem.borders(plate))]
        top, bottom = y[first[plate]] + height / 2 + over[plate], y[last[plate]] - height / 2 - under[plate]
        boxes.append((float(left), bottom, float(right), top))
    return Layout(
        {name: (float(places[number[name]]), y[layer_of[name]]) for name in names},
        {edge: [(float(places[node]), y[layer_at[node]]) for node in trail] for edge, trail in bends.items()},
        boxes,
    )


def _layers(parents: Parents) -> dict[str, int]:
    """The longest path from a source; then nodes with more children than parents move down towards these."""
    layer: dict[str, int] = {}
    order = topological_order(parents)
    for name in order:
        layer[name] = max((layer[parent] + 1 for parent in parents[name]), default=0)
    children = children_of(parents)
    for name in reversed(order):
        if len(children[name]) > len(set(parents[name])):
            layer[name] = min(layer[child] for child in children[name]) - 1
    first = min(layer.values())
    return {name: layer[name] - first for name in parents}


def _gaps(
    layers: Sequence[Sequence[int]],
    segments: Sequence[tuple[int, int]],
    places: Float[np.ndarray, " places"],
) -> list[float]:
    """Between each layer and the next: more where an edge goes far to the side."""
    layer_at = {node: k for k, layer in enumerate(layers) for node in layer}
    gaps = [LAYER_GAP] * (len(layers) - 1)
    for one, other in segments:
        aside = _SLOPE * abs(float(places[other] - places[one]))
        gaps[layer_at[one]] = max(gaps[layer_at[one]], min(aside, 3.0 * LAYER_GAP))
    return gaps


def _few_crossings(layers: list[list[int]], segments: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Sweeps down and up in which every node goes to the mean place of its neighbours; the best order is kept."""
    above: dict[int, list[int]] = {node: [] for layer in layers for node in layer}
    below: dict[int, list[int]] = {node: [] for layer in layers for node in layer}
    for one, other in segments:
        below[one].append(other)
        above[other].append(one)
    best, fewest = layers, _crossings(layers, below)
    for sweep in range(_SWEEPS):
        if not fewest:
            break
        layers = [list(layer) for layer in layers]
        down = sweep % 2 == 0
        around = above if down else below
        for k in range(1, len(layers)) if down else range(len(layers) - 2, -1, -1):
            beside = layers[k - 1 if down else k + 1]
            place = {node: at / max(1, len(beside) - 1) for at, node in enumerate(beside)}
            own = {node: at / max(1, len(layers[k]) - 1) for at, node in enumerate(layers[k])}
            wanted = {n: float(np.mean([place[o] for o in around[n]])) if around[n] else own[n] for n in own}
            # Every other pair of sweeps turns ties round, which frees orders that the mean alone cannot leave.
            ties = -1.0 if sweep % 4 > 1 else 1.0
            layers[k].sort(key=lambda node: (wanted[node], ties * own[node]))
        count = _crossings(layers, below)
        if count < fewest:
            best, fewest = layers, count
    return best


def _crossings(layers: Sequence[Sequence[int]], below: Mapping[int, Sequence[int]]) -> int:
    total = 0
    for upper, lower in itertools.pairwise(layers):
        place = {node: at for at, node in enumerate(lower)}
        seen: list[int] = []
        for node in upper:
            ends = [place[other] for other in below[node]]
            total += sum(len(seen) - bisect_right(seen, end) for end in ends)
            for end in ends:
                insort(seen, end)
    return total
