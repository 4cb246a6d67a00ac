"""Undirected graphs without their numbers: separation, cliques, chordality, treewidth."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Set

from recsys_vae.errors import UserError
from recsys_vae.graphical.elimination_order import HEURISTICS, eliminate

Neighbours = Mapping[str, Set[str]]


def separated(
    neighbours: Neighbours, first: Collection[str], second: Collection[str], given: Collection[str] = ()
) -> tuple[bool, tuple[str, ...]]:
    """Whether every path between two sets passes through ``given``; and if not, a shortest one that does not.

    In a Markov random field this is conditional independence (Hammersley & Clifford).

    Raises :class:`UserError` for unknown nodes, and for sets that overlap.
    """
    sets = {"first": _set(first), "second": _set(second), "given": _set(given)}
    for argument, names in sets.items():
        for name in names:
            if name not in neighbours:
                raise UserError(f"{argument}: expected nodes of the graph, came {name!r}")
    for one, other in (("first", "second"), ("first", "given"), ("second", "given")):
        if common := sorted(sets[one] & sets[other]):
            raise UserError(f"{one}: expected no node that is in {other} too, came {common[0]!r}")
    came_from: dict[str, str | None] = dict.fromkeys(sorted(sets["first"]))
    queue = deque(came_from)
    while queue:
        name = queue.popleft()
        if name in sets["second"]:
            path = [name]
            while (before := came_from[path[-1]]) is not None:
                path.append(before)
            return False, tuple(reversed(path))
        for other in sorted(neighbours[name]):
            if other not in came_from and other not in sets["given"]:
                came_from[other] = name
                queue.append(other)
    return True, ()


def _set(names: Collection[str]) -> set[str]:
    return {names} if isinstance(names, str) else set(names)


def connected_components(neighbours: Neighbours) -> list[set[str]]:
    """The parts of a graph, in the order of their first nodes."""
    parts = []
    seen: set[str] = set()
    for start in neighbours:
        if start in seen:
            continue
        part = {start}
        waiting = [start]
        while waiting:
            for other in neighbours[waiting.pop()]:
                if other not in part:
                    part.add(other)
                    waiting.append(other)
        seen |= part
        parts.append(part)
    return parts


def is_forest(neighbours: Neighbours) -> bool:
    """Whether there is no cycle."""
    edges = sum(len(others) for others in neighbours.values()) // 2
    return edges == len(neighbours) - len(connected_components(neighbours))


def is_tree(neighbours: Neighbours) -> bool:
    """Whether there is exactly one path between any two nodes. The graph without nodes is none."""
    return len(connected_components(neighbours)) == 1 and is_forest(neighbours)


def maximal_cliques(neighbours: Neighbours) -> Iterator[frozenset[str]]:
    """Every set of mutual neighbours that no other contains (Bron & Kerbosch 1973, with Tomita's pivot)."""
    if not neighbours:
        return
    # Of each level: the clique so far, candidates left to branch on, all candidates, and those already done.
    everyone = set(neighbours)
    stack = [(frozenset[str](), _branches(neighbours, everyone, set()), everyone, set[str]())]
    while stack:
        clique, branches, candidates, done = stack[-1]
        if not branches:
            stack.pop()
            continue
        name = branches.pop()
        around = set(neighbours[name])
        inner, excluded = candidates & around, done & around
        larger = clique | {name}
        candidates.discard(name)
        done.add(name)
        if not inner and not excluded:
            yield larger
        elif inner:
            stack.append((larger, _branches(neighbours, inner, excluded), inner, excluded))


def _branches(neighbours: Neighbours, candidates: set[str], done: set[str]) -> list[str]:
    """The candidates that the best pivot is no neighbour of: each maximal clique holds one of them."""
    pivot = max(sorted(candidates | done), key=lambda name: len(candidates & set(neighbours[name])))
    return sorted(candidates - set(neighbours[pivot]), reverse=True)


def is_chordal(neighbours: Neighbours) -> bool:
    """Whether every cycle of four or more has a chord: maximum cardinality search (Tarjan & Yannakakis 1984)."""
    numbered: dict[str, int] = {}
    buckets: list[dict[str, None]] = [dict.fromkeys(neighbours)]
    weight = dict.fromkeys(neighbours, 0)
    while len(numbered) < len(neighbours):
        while not buckets[-1]:
            buckets.pop()
        # The last one: looking for the first of a dict whose front is gone takes time.
        name, _ = buckets[-1].popitem()
        earlier = [other for other in neighbours[name] if other in numbered]
        if earlier:
            # Those numbered before must form a clique: it is enough that the latest of them knows the others.
            latest = max(earlier, key=numbered.__getitem__)
            if not all(other == latest or other in neighbours[latest] for other in earlier):
                return False
        numbered[name] = len(numbered)
        for other in neighbours[name]:
            if other not in numbered:
                del buckets[weight[other]][other]
                weight[other] += 1
                if weight[other] == len(buckets):
                    buckets.append({})
                buckets[weight[other]][other] = None
    return True


def treewidth_bounds(neighbours: Neighbours) -> tuple[int, int]:
    """A lower and an upper bound of the treewidth, -1 for the graph without nodes.

    Below, the largest minimum degree met while contracting an edge at a node of least degree (minor-min-width, Gogate
    & Dechter 2004); above, the best of the elimination heuristics.
    """
    if not neighbours:
        return -1, -1
    binary = dict.fromkeys(neighbours, 2)
    upper = min(
        max(len(clique) for clique in eliminate(neighbours, binary, heuristic).cliques) - 1
        for heuristic in HEURISTICS[:2]
    )
    graph = {name: set(others) for name, others in neighbours.items()}
    heap = [(len(others), name) for name, others in graph.items()]
    heapq.heapify(heap)
    lower = 0
    while heap:
        degree, name = heapq.heappop(heap)
        if name not in graph or degree != len(graph[name]):
            continue  # gone, or its degree has changed since: the new one is in the heap too
        around = graph.pop(name)
        lower = max(lower, degree)
        if not around:
            continue
        into = min(around, key=lambda other: (len(around & graph[other]), other))
        for other in around:
            graph[other].discard(name)
        for other in around - graph[into] - {into}:
            graph[other].add(into)
            graph[into].add(other)
        for other in around:
            heapq.heappush(heap, (len(graph[other]), other))
    return lower, upper
