"""Directed graphs without their numbers: order, blankets, moral graph."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

from recsys_vae.errors import UserError

Parents = Mapping[str, Sequence[str]]


def topological_order(parents: Parents) -> tuple[str, ...]:
    """Every node after its parents, otherwise in the order given.

    Raises :class:`UserError` for a directed cycle, showing it.
    """
    rank = {name: number for number, name in enumerate(parents)}
    waiting = {name: len(set(above)) for name, above in parents.items()}
    children = children_of(parents)
    ready = [(rank[name], name) for name, count in waiting.items() if not count]
    heapq.heapify(ready)
    order = []
    while ready:
        _, name = heapq.heappop(ready)
        order.append(name)
        for child in children[name]:
            waiting[child] -= 1
            if not waiting[child]:
                heapq.heappush(ready, (rank[child], child))
    if len(order) < len(parents):
        raise UserError(f"parents: expected no directed cycle, came {_cycle(parents, set(order))}")
    return tuple(order)


def _cycle(parents: Parents, done: set[str]) -> str:
    """Walking up from a node that cannot be ordered ends in a cycle."""
    at = next(name for name in parents if name not in done)
    seen: dict[str, int] = {}
    path: list[str] = []
    while at not in seen:
        seen[at] = len(path)
        path.append(at)
        at = next(name for name in parents[at] if name not in done)
    loop = [at, *reversed(path[seen[at] :])]
    return " -> ".join(loop)


def children_of(parents: Parents) -> dict[str, tuple[str, ...]]:
    """The nodes that each node is a parent of."""
    children: dict[str, list[str]] = {name: [] for name in parents}
    for name, above in parents.items():
        for parent in dict.fromkeys(above):
            if parent not in children:
                raise UserError(
                    f"parents: expected nodes of the graph, came {parent!r}, a parent of {name!r}"
                )
            children[parent].append(name)
    return {name: tuple(below) for name, below in children.items()}


def descendants(parents: Parents, names: Sequence[str]) -> set[str]:
    """All nodes below ``names``, without these unless one lies below another."""
    children = children_of(parents)
    return _reached(children, names)


def ancestors(parents: Parents, names: Sequence[str]) -> set[str]:
    """All nodes above ``names``, without these unless one lies above another."""
    return _reached(parents, names)


def _reached(step: Mapping[str, Sequence[str]], names: Sequence[str]) -> set[str]:
    found: set[str] = set()
    waiting = [other for name in names for other in step[name]]
    while waiting:
        at = waiting.pop()
        if at not in found:
            found.add(at)
            waiting.extend(step[at])
    return found


def moral_graph(parents: Parents) -> dict[str, set[str]]:
    """Parents of a common child married, arrows dropped (Lauritzen & Spiegelhalter 1988)."""
    joined: dict[str, set[str]] = {name: set() for name in parents}
    for name, above in parents.items():
        family = {name, *above}
        for member in family:
            joined[member] |= family
    return {name: others - {name} for name, others in joined.items()}


def markov_blanket(parents: Parents, name: str) -> set[str]:
    """Parents, children, and the children's other parents: given these, nothing else matters to the node."""
    blanket = set(parents[name])
    for child in children_of(parents)[name]:
        blanket |= {child, *parents[child]}
    return blanket - {name}


def is_polytree(parents: Parents) -> bool:
    """Whether the graph without its arrows has no cycle."""
    edges = sum(len(set(above)) for above in parents.values())
    part = {name: name for name in parents}

    def root(name: str) -> str:
        while part[name] != name:
            part[name] = part[part[name]]
            name = part[name]
        return name

    for name, above in parents.items():
        for parent in set(above):
            part[root(parent)] = root(name)
    return edges == len(parents) - len({root(name) for name in parents})
