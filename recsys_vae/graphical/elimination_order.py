"""In which order to sum variables out: greedy heuristics (Koller & Friedman 2009, section 9.4.3)."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Set
from typing import NamedTuple

from recsys_vae.errors import UserError

HEURISTICS = ("min_fill", "min_degree", "min_weight")


class Elimination(NamedTuple):
    """The order, and for each variable the clique that eliminating it forms: itself first, then its neighbours."""

    order: tuple[str, ...]
    cliques: tuple[tuple[str, ...], ...]


def eliminate(
    neighbours: Mapping[str, Set[str]],
    n_states: Mapping[str, int],
    heuristic: str = "min_fill",
    last: Set[str] = frozenset(),
) -> Elimination:
    """Eliminate every variable, the cheapest next, the variables of ``last`` at the end.

    Ties go to the smaller table, then to the variable that comes first.

    Args:
        neighbours: the undirected graph.
        n_states: of each variable.
        heuristic: ``min_fill``, the edges that the elimination would add; ``min_degree``, the number of neighbours;
            ``min_weight``, the entries of the table that it would form.
        last: not before all others are gone.

    Raises :class:`UserError` for an unknown heuristic.
    """
    if heuristic not in HEURISTICS:
        raise UserError(f"order: expected one of {list(HEURISTICS)}, came {heuristic!r}")
    graph = _ShrinkingGraph(neighbours, n_states)
    rank = {name: place for place, name in enumerate(neighbours)}
    price = {name: (name in last, *graph.price(name, heuristic), rank[name]) for name in neighbours}
    heap = [(at, name) for name, at in price.items()]
    heapq.heapify(heap)
    order, cliques = [], []
    while heap:
        at, name = heapq.heappop(heap)
        if name not in graph.around or at != price[name]:
            continue  # gone, or its price has changed since: the new one is in the heap too
        order.append(name)
        cliques.append((name, *sorted(graph.around[name], key=rank.__getitem__)))
        for other in graph.remove(name):
            price[other] = (other in last, *graph.price(other, heuristic), rank[other])
            heapq.heappush(heap, (price[other], other))
    return Elimination(tuple(order), tuple(cliques))


class _ShrinkingGraph:
    """A graph that loses its nodes one by one, with each node's missing edges and table size kept up to date."""

    def __init__(self, neighbours: Mapping[str, Set[str]], n_states: Mapping[str, int]) -> None:
        self.around = {name: set(others) for name, others in neighbours.items()}
        self._log_states = {name: math.log2(n_states[name]) for name in neighbours}
        self.log_weight = {
            name: self._log_states[name] + sum(self._log_states[other] for other in sorted(others))
            for name, others in self.around.items()
        }
        self.fill = {name: self._missing(name) for name in self.around}

    def price(self, name: str, heuristic: str) -> tuple[int | float, float]:
        """What eliminating a node costs, and the logarithm of its table's size, which settles ties."""
        weight = self.log_weight[name]
        if heuristic == "min_fill":
            return self.fill[name], weight
        return len(self.around[name]) if heuristic == "min_degree" else weight, weight

    def _missing(self, name: str) -> int:
        """Edges that are missing among a node's neighbours."""
        around = self.around[name]
        present = sum(_in_common(around, self.around[other]) for other in around)
        return (len(around) * (len(around) - 1) - present) // 2

    def remove(self, name: str) -> set[str]:
        """Join the neighbours of a node to each other and take it away; returns whose price may have changed."""
        around = self.around.pop(name)
        changed = set(around)
        for other in around:
            theirs = self.around[other]
            theirs.discard(name)
            # The pairs that the node formed with neighbours of ``other`` that it did not know.
            self.fill[other] -= len(theirs) - _in_common(theirs, around)
            self.log_weight[other] -= self._log_states[name]
        if self.fill.pop(name):
            ordered = sorted(around)
            for place, first in enumerate(ordered):
                for second in ordered[place + 1 :]:
                    if second not in self.around[first]:
                        changed |= self._join(first, second)
        del self.log_weight[name]
        return changed

    def _join(self, first: str, second: str) -> set[str]:
        """A new edge; returns the nodes that know both of its ends, for which it is missing no more."""
        common = self.around[first] & self.around[second]
        for name, other in ((first, second), (second, first)):
            self.fill[name] += len(self.around[name]) - len(common)
            self.log_weight[name] += self._log_states[other]
            self.around[name].add(other)
        for between in common:
            self.fill[between] -= 1
        return common


def _in_common(one: Set[str], other: Set[str]) -> int:
    return len(one & other) if len(one) < len(other) else len(other & one)
