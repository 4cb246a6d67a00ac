"""The junction tree: exact marginals in any graph, at a cost exponential in its treewidth.

Lauritzen & Spiegelhalter 1988, with the two passes of Jensen, Lauritzen & Olesen 1990, in logarithms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recsys_vae.graphical.elimination_order import eliminate
from recsys_vae.graphical.factor_graph import DiscreteGraph, FactorGraph, without_single_states
from recsys_vae.graphical.log_tables import (
    MAX_TABLE,
    LogTable,
    align,
    check_table_size,
    log_divide,
    log_product,
    log_sum,
)
from recsys_vae.graphical.marginals import Marginals, log_total
from recsys_vae.graphical.variables import Evidence


def junction_tree(
    graph: DiscreteGraph,
    evidence: Mapping[str, Any] | None = None,
    *,
    order: str = "min_fill",
    max_table: int = MAX_TABLE,
) -> Marginals:
    """Marginals of every variable, and the log-evidence.

    >>> from recsys_vae.graphical import MarkovRandomField
    >>> field = MarkovRandomField({"a": 2, "b": 2}, [(("a", "b"), [[1.0, 0.0], [0.0, 1.0]])])
    >>> round(junction_tree(field, {"a": 1}).marginal("b")[1], 4)
    0.7311

    To ask one graph often, compile it once: :class:`JunctionTree`.

    Args:
        graph: of any kind, connected or not.
        evidence: a state for each observed variable; or for each a list of states, for many cases at once.
        order: heuristic of the triangulation; see :func:`~recsys_vae.graphical.elimination_order.eliminate`.
        max_table: the largest table that may be formed, in entries of float64.

    Raises :class:`UserError` for contradictory evidence, naming it, and where a table would exceed ``max_table``.
    """
    return JunctionTree(graph, order=order, max_table=max_table)(evidence)


@dataclass(frozen=True)
class Clique:
    """A clique of the triangulated graph, and the one nearer to the root that it shares its separator with."""

    variables: tuple[str, ...]
    parent: int  # -1 for a root
    separator: tuple[str, ...]


class JunctionTree:
    """A graph triangulated once, to be asked under any evidence.

    Args and errors as :func:`junction_tree`. ``cliques`` come with parents after their children; variables of one state
    are in none.
    """

    def __init__(self, graph: DiscreteGraph, *, order: str = "min_fill", max_table: int = MAX_TABLE) -> None:
        self.states = graph.states
        self.max_table = max_table
        factors = without_single_states(graph.factor_graph())
        self._sizes = {name: len(states) for name, states in factors.states.items()}
        self.cliques = clique_tree(factors, order)
        self._home = self._homes()
        largest = max(self.cliques, key=lambda clique: self._entries(clique), default=None)
        if largest is not None:
            sizes = [self._sizes[name] for name in largest.variables]
            check_table_size("junction_tree", largest.variables, sizes, max_table)
        self._largest = 1 if largest is None else self._entries(largest)
        self._tables = self._initial(factors)

    @property
    def treewidth(self) -> int:
        """Of this triangulation: an upper bound of the graph's."""
        return max((len(clique.variables) for clique in self.cliques), default=0) - 1

    def __call__(self, evidence: Mapping[str, Any] | Evidence | None = None) -> Marginals:
        """Marginals of every variable under the evidence; cases go in blocks that keep to ``max_table``."""
        observed = Evidence.of(evidence, self.states)
        block = max(1, self.max_table // max(1, self._largest))
        beliefs: dict[str, list[Tensor]] = {name: [] for name in self.states}
        log_evidence = []
        for start in range(0, max(1, observed.n_cases), block):
            cases = slice(start, min(start + block, observed.n_cases))
            found, total = self._propagate(observed, cases)
            log_evidence.append(total)
            for name, belief in found.items():
                beliefs[name].append(belief.expand(cases.stop - start, -1) if observed.batched else belief)
        joined = {name: parts[0] if len(parts) == 1 else torch.cat(parts) for name, parts in beliefs.items()}
        return Marginals.of(observed, joined, torch.cat(log_evidence))

    def _entries(self, clique: Clique) -> int:
        entries = 1
        for name in clique.variables:
            entries *= self._sizes[name]
        return entries

    def _homes(self) -> dict[str, int]:
        """The smallest clique of each variable: its evidence goes in there, its marginal is read there."""
        home: dict[str, int] = {}
        for number, clique in enumerate(self.cliques):
            for name in clique.variables:
                if name not in home or self._entries(clique) < self._entries(self.cliques[home[name]]):
                    home[name] = number
        return home

    def _initial(self, factors: FactorGraph) -> list[Tensor]:
        """The product of each clique's potentials, ``(1, *states)``."""
        assigned: list[list[LogTable]] = [[] for _ in self.cliques]
        holding: dict[str, list[int]] = {name: [] for name in factors.states}
        for number, clique in enumerate(self.cliques):
            for name in clique.variables:
                holding[name].append(number)
        constant = torch.zeros((), dtype=torch.float64)
        for potential in factors.log_potentials:
            if not potential.variables:
                constant = constant + potential.table
                continue
            rarest = min(potential.variables, key=lambda name: len(holding[name]))
            members = set(potential.variables)
            number = next(n for n in holding[rarest] if members <= set(self.cliques[n].variables))
            assigned[number].append(LogTable(potential.variables, potential.table[None]))
        self._constant = constant
        return [
            log_product(tables, clique.variables, [self._sizes[name] for name in clique.variables])
            for tables, clique in zip(assigned, self.cliques, strict=True)
        ]

    def _propagate(self, observed: Evidence, cases: slice) -> tuple[dict[str, Tensor], Tensor]:
        """Beliefs ``(cases or 1, states)`` of each variable up to a factor, and the log-evidence of each case."""
        beliefs = list(self._tables)
        for name in observed.observed.keys() & self._home.keys():
            indicator = observed.log_indicator(name, cases)
            assert indicator is not None
            home = self._home[name]
            beliefs[home] = beliefs[home] + align(LogTable((name,), indicator), self.cliques[home].variables)
        messages: list[Tensor | None] = [None] * len(self.cliques)
        totals = [self._constant[None]]
        for number, clique in enumerate(self.cliques):
            if clique.parent < 0:
                totals.append(beliefs[number].flatten(1).logsumexp(dim=1))
                continue
            # The scale of each message is kept apart, or it would eat the digits of long chains.
            message = log_sum(beliefs[number], clique.variables, clique.separator).values
            peak = message.flatten(1).amax(dim=1)
            peak = peak.where(peak > -torch.inf, 0.0)
            totals.append(peak)
            message = message - peak.reshape(-1, *(1,) * (message.ndim - 1))
            messages[number] = message
            table = LogTable(clique.separator, message)
            beliefs[clique.parent] = beliefs[clique.parent] + align(
                table, self.cliques[clique.parent].variables
            )
        for number in range(len(self.cliques) - 1, -1, -1):
            clique, sent = self.cliques[number], messages[number]
            if clique.parent < 0 or sent is None:
                continue
            above = log_sum(beliefs[clique.parent], self.cliques[clique.parent].variables, clique.separator)
            returned = LogTable(clique.separator, log_divide(above.values, sent))
            beliefs[number] = beliefs[number] + align(returned, clique.variables)
        found = dict.fromkeys(self.states, torch.zeros(1, 1, dtype=torch.float64))
        for name, home in self._home.items():
            found[name] = log_sum(beliefs[home], self.cliques[home].variables, [name]).values
        return found, log_total(totals, cases.stop - cases.start)


def clique_tree(factors: FactorGraph, order: str = "min_fill") -> list[Clique]:
    """Cliques of a triangulation, children before their parents; a tree for each connected component.

    Each clique that elimination forms hangs below the clique of whichever of its other variables goes next; one that
    lies within another is merged with it.
    """
    sizes = {name: len(states) for name, states in factors.states.items()}
    elimination = eliminate(factors.neighbours(), sizes, order)
    place = {name: number for number, name in enumerate(elimination.order)}
    parents = [min((place[name] for name in clique[1:]), default=-1) for clique in elimination.cliques]
    return _merged([tuple(clique) for clique in elimination.cliques], parents)


def _merged(cliques: Sequence[tuple[str, ...]], parents: Sequence[int]) -> list[Clique]:
    """Leave out cliques within their parents, or parents within their children."""
    members = [set(clique) for clique in cliques]
    stands_for = list(range(len(cliques)))

    def found(number: int) -> int:
        while stands_for[number] != number:
            stands_for[number] = stands_for[stands_for[number]]
            number = stands_for[number]
        return number

    up = list(parents)
    for number, parent in enumerate(parents):
        # A clique's parent holds all of it but the eliminated variable: only the parent can lie within the child.
        if parent < 0:
            continue
        child = found(number)
        if stands_for[parent] == parent and members[parent] <= members[child]:
            stands_for[parent] = child
            up[child] = parents[parent]
    return _ordered(cliques, [found(number) for number in range(len(cliques))], up, found)


def _ordered(
    cliques: Sequence[tuple[str, ...]], roots: Sequence[int], up: Sequence[int], found: Any
) -> list[Clique]:
    """The remaining cliques with their parents, children first."""
    kept = sorted(set(roots))
    parent_of = {number: -1 if up[number] < 0 else found(up[number]) for number in kept}
    depth: dict[int, int] = {}
    for number in kept:
        path = []
        at = number
        while at >= 0 and at not in depth:
            path.append(at)
            at = parent_of[at]
        level = -1 if at < 0 else depth[at]
        for step in reversed(path):
            level += 1
            depth[step] = level
    order = sorted(kept, key=lambda number: (-depth[number], number))
    new = {number: place for place, number in enumerate(order)}
    result = []
    for number in order:
        parent = parent_of[number]
        above = set() if parent < 0 else set(cliques[parent])
        shared = tuple(name for name in cliques[number] if name in above)
        result.append(Clique(cliques[number], -1 if parent < 0 else new[parent], shared))
    return result
