"""What plates ask of a layout in layers: whatever is no member lies beside the box, and every label can be read."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from recsys_vae.errors import UserError
from recsys_vae.graphical.drawing.placement import PLATE_PAD, Beside, Border, Placement, PlateBox

_MAX_STEPS = 20_000

# How far right of the other one is, and the order that puts it on the left, or on the right.
_Choice = tuple[float, tuple[int | Border, int | Border], tuple[int | Border, int | Border]]


def sides(
    places: Float[np.ndarray, " places"],
    layer_at: Mapping[int, int],
    n_nodes: int,
    members: Sequence[Sequence[int]],
) -> Beside:
    """Whatever is no member of a plate, but beside it, lies left or right of it: the nearer side that is possible."""
    after: Beside = {node: set() for node in layer_at}
    for plate, inside in enumerate(members):
        after["left", plate] = set(inside)
        after["right", plate] = set()
        for node in inside:
            after[node].add(("right", plate))
    spans = [
        range(min(rows), max(rows) + 1) for rows in ([layer_at[n] for n in inside] for inside in members)
    ]
    centre = [float(np.mean(places[list(inside)])) for inside in members]
    choices: list[_Choice] = []
    for one, inside in enumerate(members):
        for other in range(one):
            touch = max(spans[one].start, spans[other].start) < min(spans[one].stop, spans[other].stop)
            if touch and not set(inside) & set(members[other]):
                choices.append(
                    (
                        centre[one] - centre[other],
                        (("right", one), ("left", other)),
                        (("right", other), ("left", one)),
                    )
                )
    # Plates first, they decide for all their nodes; then the clearest cases.
    choices.sort(key=lambda choice: -abs(choice[0]))
    single: list[_Choice] = []
    for plate, inside in enumerate(members):
        for node in range(n_nodes):
            if node not in inside and layer_at[node] in spans[plate]:
                shift = float(places[node]) - centre[plate]
                single.append((shift, (node, ("left", plate)), (("right", plate), node)))
    choices += sorted(single, key=lambda choice: -abs(choice[0]))
    options = [(near, far) if shift < 0.0 else (far, near) for shift, near, far in choices]
    if not _choose(options, after):
        raise UserError(
            "plates: expected sets that can be boxed apart, came ones for which no layout was found"
        )
    return after


def _choose(options: Sequence[tuple[tuple[int | Border, int | Border], ...]], after: Beside) -> bool:
    """Add one order of each choice to ``after``, the first where it can be, so that no cycle arises: backtracking."""
    tried = [0] * len(options)
    added: list[bool] = []
    for _ in range(_MAX_STEPS):
        at = len(added)
        if at == len(options):
            return True
        if tried[at] < 2:
            first, second = options[at][tried[at]]
            tried[at] += 1
            if not _leads(after, second, first):
                added.append(second not in after[first])
                after[first].add(second)
            continue
        tried[at] = 0
        if not added:
            return False
        first, second = options[at - 1][tried[at - 1] - 1]
        if added.pop():
            after[first].discard(second)
    return False


def keep_legible(
    problem: Placement,
    plates: Sequence[PlateBox],
    members: Sequence[Sequence[int]],
    beside: Beside,
    segments: Sequence[tuple[int, int]],
    places: Float[np.ndarray, " places"],
) -> None:
    """Inner plates keep inside; a label stands beside the edges that leave its plate, and outside plates that cross."""
    for plate, (box, inside) in enumerate(zip(plates, members, strict=True)):
        left, right = problem.borders(plate)
        leaving = [(one, other) for one, other in segments if one in inside and other not in inside]
        lean = sum(float(places[other] - places[one]) for one, other in leaving)
        for node, _ in leaving:
            pair = (node, right) if lean <= 0.0 else (left, node)
            problem.at_least(*pair, box.label_width + 2.0 * PLATE_PAD)
        for other, across in enumerate(members):
            if other == plate or not set(inside) & set(across):
                continue
            other_left, other_right = problem.borders(other)
            if set(inside) <= set(across) and box.level < plates[other].level:
                problem.at_least(other_left, left, PLATE_PAD)
                problem.at_least(right, other_right, PLATE_PAD)
            if set(inside) <= set(across) or set(across) <= set(inside):
                continue
            room = box.label_width + 2.5 * PLATE_PAD
            if any(("left", other) in beside[node] for node in inside):
                problem.at_least(left, other_left, room)
            elif any(node in beside["right", other] for node in inside):
                problem.at_least(other_right, right, room)


def _leads(after: Beside, start: int | Border, end: int | Border) -> bool:
    waiting, seen = [start], {start}
    while waiting:
        at = waiting.pop()
        if at == end:
            return True
        new = after[at] - seen
        seen |= new
        waiting += new
    return False


def left_to_right(places: Float[np.ndarray, " places"], after: Beside) -> list[int]:
    """All nodes from left to right, as near to their places as the sides allow."""
    before = dict.fromkeys(after, 0)
    for others in after.values():
        for other in others:
            before[other] += 1

    def key(at: int | Border) -> tuple[float, str]:
        # A border is no node: it goes as soon as it may.
        return (float(places[at]) if isinstance(at, int) else -np.inf, str(at))

    ready = [(key(at), at) for at, count in before.items() if not count]
    heapq.heapify(ready)
    order = []
    while ready:
        _, at = heapq.heappop(ready)
        if isinstance(at, int):
            order.append(at)
        for other in after[at]:
            before[other] -= 1
            if not before[other]:
                heapq.heappush(ready, (key(other), other))
    return order


def depths(plates: Sequence[PlateBox], members: Sequence[Sequence[int]], row: Sequence[int]) -> list[int]:
    """How many borders lie between a plate's nodes and its own one, itself counted, in its outermost ``row``."""
    depth = [0] * len(plates)
    for plate in sorted(range(len(plates)), key=lambda plate: plates[plate].level):
        inner = [
            depth[other]
            for other in range(len(plates))
            if row[other] == row[plate] and set(members[other]) & set(members[plate])
        ]
        depth[plate] = 1 + max(inner)
    return depth
