"""A factor graph without cycles, compiled for two passes of messages: all factors of one shape and depth at once."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recsys_vae.errors import UserError
from recsys_vae.graphical.factor_graph import DiscreteGraph, FactorGraph
from recsys_vae.graphical.variables import Evidence

# Every variable has a row as long as that of the one with the most states: entries that may be, most of them empty.
MAX_PADDED = 2**24


@dataclass(frozen=True)
class FactorGroup:
    """Factors of one shape whose variable nearest to the root is at one depth.

    Args:
        tables: the axis of the variable near the root first, ``(factors, 1, *states)``.
        parent: index of that variable, of each factor.
        children: indices of the others, axis by axis.
    """

    tables: Float[Tensor, "factors one *states"]
    parent: Int[Tensor, " factors"]
    children: tuple[Int[Tensor, " factors"], ...]

    def with_messages(self, beliefs: Float[Tensor, "variables cases states"]) -> Tensor:
        """The tables times what the children say, ``(factors, cases, *states)``."""
        product = self.tables
        for axis, child in enumerate(self.children, start=1):
            size = self.tables.shape[2 + axis]
            message = beliefs[child, :, :size]
            shape = [*message.shape[:2], *(1,) * (1 + len(self.children))]
            shape[2 + axis] = size
            product = product + message.reshape(shape)
        return product


class FactorTree:
    """A forest of variables and factors, rooted in the middle of each tree.

    Factors of a single variable are no part of it: they are added to what is known of the variable beforehand.

    Raises :class:`UserError` for a graph with a cycle, showing it.
    """

    @classmethod
    def of(cls, graph: DiscreteGraph, method: str) -> FactorTree:
        """The tree of a graph, which is kept as long as the graph: graphs do not change."""
        factors = graph.factor_graph()
        if factors not in _COMPILED:
            _COMPILED[factors] = cls(factors, method)
        return _COMPILED[factors]

    def __init__(self, factors: FactorGraph, method: str) -> None:
        self.states = factors.states
        self.names = list(self.states)
        self._index = {name: number for number, name in enumerate(self.names)}
        self.n_states = torch.tensor([len(self.states[name]) for name in self.names], dtype=torch.int64)
        self.max_states = int(self.n_states.max()) if self.names else 1
        _refuse_padding(self.names, self.n_states.tolist(), method)
        columns = torch.arange(self.max_states)
        self._local = torch.where(columns < self.n_states[:, None], 0.0, -torch.inf).double()
        self.constant = torch.zeros((), dtype=torch.float64)
        scopes, tables = [], []
        for potential in factors.log_potentials:
            scope = [self._index[name] for name in potential.variables]
            if not scope:
                self.constant = self.constant + potential.table
            elif len(scope) == 1:
                self._local[scope[0], : len(potential.table)] += potential.table
            else:
                scopes.append(scope)
                tables.append(potential.table)
        self.roots, depth, above = _hang(len(self.names), scopes, self.names, method)
        self.groups = _grouped(scopes, tables, depth, above)  # from the roots downwards

    def local(self, evidence: Evidence, cases: slice) -> Float[Tensor, "variables cases states"]:
        """What is known of each variable by itself, evidence included; -inf beyond its last state."""
        n_cases = cases.stop - cases.start
        local = self._local[:, None, :].repeat(1, n_cases, 1)
        for name in evidence.observed:
            indicator = evidence.log_indicator(name, cases)
            assert indicator is not None
            local[self._index[name], :, : indicator.shape[-1]] += indicator
        return local

    def blocks(self, n_cases: int, max_entries: int) -> list[slice]:
        """Cases in blocks whose messages keep to a number of entries; one empty block where there are none."""
        largest = max((group.tables.numel() for group in self.groups), default=1)
        size = max(1, max_entries // max(largest, len(self.names) * self.max_states))
        return [slice(start, min(start + size, n_cases)) for start in range(0, max(1, n_cases), size)]


def _refuse_padding(names: Sequence[str], n_states: Sequence[int], method: str) -> None:
    """Before anything is allocated; where most variables are about as large as the largest, nothing is wasted."""
    largest, total = max(n_states, default=0), sum(n_states)
    padded = largest * len(names)
    if padded > max(MAX_PADDED, 4 * total):
        widest = names[n_states.index(largest)]
        raise UserError(
            f"{method}: expected variables of about as many states, came {len(names)} of {total} in all, each of which "
            f"would take the {largest} of {widest!r}: {padded:,} entries ({8 * padded / 2**20:.0f} MiB), the limit is "
            f"{MAX_PADDED:,}; use junction_tree"
        )


_COMPILED: WeakKeyDictionary[FactorGraph, FactorTree] = WeakKeyDictionary()


def _hang(
    n_variables: int, scopes: Sequence[Sequence[int]], names: Sequence[str], method: str
) -> tuple[Tensor, list[int], list[int]]:
    """Roots, the depth of each variable, and for each factor which of its variables is nearest to the root."""
    factors_of: list[list[int]] = [[] for _ in range(n_variables)]
    for number, scope in enumerate(scopes):
        for variable in scope:
            factors_of[variable].append(number)
    depth = [-1] * n_variables
    above = [-1] * len(scopes)
    roots = []
    for start in range(n_variables):
        if depth[start] >= 0:
            continue
        root = _middle(start, scopes, factors_of)
        roots.append(root)
        depth[root] = 0
        came_from = {root: -1}
        queue = deque([root])
        while queue:
            variable = queue.popleft()
            for factor in factors_of[variable]:
                if factor == came_from[variable]:
                    continue
                if above[factor] >= 0:
                    raise UserError(_cycle_message(factor, scopes, factors_of, names, method))
                above[factor] = variable
                for other in scopes[factor]:
                    if other == variable:
                        continue
                    if depth[other] >= 0:
                        raise UserError(_cycle_message(factor, scopes, factors_of, names, method))
                    depth[other] = depth[variable] + 1
                    came_from[other] = factor
                    queue.append(other)
    return torch.tensor(roots, dtype=torch.int64), depth, above


def _middle(start: int, scopes: Sequence[Sequence[int]], factors_of: Sequence[Sequence[int]]) -> int:
    """The variable in the middle of a longest path of the tree: the root that makes for the fewest levels."""
    end, _ = _farthest(start, scopes, factors_of)
    other, came_from = _farthest(end, scopes, factors_of)
    path = [other]
    while path[-1] != end:
        path.append(came_from[path[-1]])
    return path[len(path) // 2]


def _farthest(
    start: int, scopes: Sequence[Sequence[int]], factors_of: Sequence[Sequence[int]]
) -> tuple[int, dict[int, int]]:
    came_from = {start: start}
    passed: set[int] = set()
    queue = deque([start])
    last = start
    while queue:
        last = queue.popleft()
        for factor in factors_of[last]:
            if factor in passed:
                continue
            passed.add(factor)
            for other in scopes[factor]:
                if other not in came_from:
                    came_from[other] = last
                    queue.append(other)
    return last, came_from


def _cycle_message(
    factor: int,
    scopes: Sequence[Sequence[int]],
    factors_of: Sequence[Sequence[int]],
    names: Sequence[str],
    method: str,
) -> str:
    """A cycle through the factor: two of its variables, and a way from one to the other that avoids it."""
    for start in scopes[factor]:
        came_from: dict[int, int] = {start: start}
        queue = deque([start])
        while queue:
            variable = queue.popleft()
            for number in factors_of[variable]:
                for other in scopes[number] if number != factor else ():
                    if other not in came_from:
                        came_from[other] = variable
                        queue.append(other)
        ends = [other for other in scopes[factor] if other != start and other in came_from]
        if ends:
            path = [ends[0]]
            while path[-1] != start:
                path.append(came_from[path[-1]])
            shown = " - ".join(names[variable] for variable in [*path, ends[0]])
            return (
                f"{method}: expected a graph without cycles, came one with {shown}; "
                "junction_tree is exact there, loopy_belief_propagation approximate"
            )
    raise AssertionError("the factor is in no cycle")


def _grouped(
    scopes: Sequence[Sequence[int]], tables: Sequence[Tensor], depth: Sequence[int], above: Sequence[int]
) -> list[FactorGroup]:
    # By depth and shape; within, by how the axes are turned, so that a stack of tables is turned at once.
    members: dict[tuple[int, tuple[int, ...]], dict[tuple[int, ...], list[int]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for number, (scope, table, parent) in enumerate(zip(scopes, tables, above, strict=True)):
        first = scope.index(parent)
        # Children in the order of their numbers of states, so that more factors have one shape.
        sizes = table.shape
        others = [axis for axis in range(len(scope)) if axis != first]
        others.sort(key=sizes.__getitem__)
        order = (first, *others)
        members[depth[parent], tuple(sizes[axis] for axis in order)][order].append(number)
    groups = []
    for key in sorted(members):
        turned, ordered = [], []
        for order, numbers in members[key].items():
            stacked = torch.stack([tables[number] for number in numbers])
            turned.append(stacked.permute(0, *(axis + 1 for axis in order)))
            ordered += [[scopes[number][axis] for axis in order] for number in numbers]
        indices = torch.tensor(ordered, dtype=torch.int64).T.contiguous()
        groups.append(FactorGroup(torch.cat(turned).unsqueeze(1), indices[0], tuple(indices[1:].unbind(0))))
    return groups
