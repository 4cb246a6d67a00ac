"""Which variables of a directed graph are independent given others, and why (Pearl 1988; Bishop 2006, section 8.2)."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

from recsys_vae.errors import UserError
from recsys_vae.graphical.directed import Parents, ancestors, children_of


@dataclass(frozen=True)
class PathNode:
    """A node within a path: how the arrows meet there, and whether that blocks the path."""

    name: str
    kind: str  # head-to-tail, tail-to-tail or head-to-head
    blocks: bool
    reason: str


@dataclass(frozen=True)
class Separation:
    """The answer of :func:`d_separated`; true when the sets are d-separated. ``str`` of it is the explanation.

    Args:
        separated: whether every path between the sets is blocked.
        paths: where they are separated, every path and its nodes' reasons, as many as were asked for; where not, one
            path that is open.
        complete: whether ``paths`` are known to be all, where the sets are separated.
    """

    separated: bool
    paths: tuple[tuple[tuple[str, ...], tuple[PathNode, ...]], ...]
    complete: bool = True

    def __bool__(self) -> bool:
        """Whether the sets are separated."""
        return self.separated

    def __str__(self) -> str:
        """A line for each path: the node that blocks it, or why none does."""
        if not self.paths:
            if self.complete:
                return "d-separated: no path joins them"
            return "d-separated: any path is blocked; the search for one to show was cut short"
        lines = [
            "d-separated: every path is blocked" if self.separated else "not d-separated: a path is open"
        ]
        for path, nodes in self.paths:
            told = [node for node in nodes if node.blocks][:1] if self.separated else nodes
            why = "; ".join(node.reason for node in told) or "nothing lies between"
            lines.append(f"  {' - '.join(path)}: {why}")
        if not self.complete:
            lines.append("  and so is any other")
        return "\n".join(lines)


def d_separated(
    parents: Parents,
    first: str | Collection[str],
    second: str | Collection[str],
    given: str | Collection[str] = (),
    *,
    max_paths: int = 10,
) -> Separation:
    """Whether ``first`` and ``second`` are independent given ``given`` in every distribution over the graph.

    Decided in linear time by reachability (Koller & Friedman 2009, algorithm 3.1; Shachter's Bayes ball); the
    explanation lists up to ``max_paths`` paths.

    >>> print(d_separated({"a": [], "b": [], "c": ["a", "b"]}, "a", "b", given="c"))
    not d-separated: a path is open
      a - c - b: head-to-head at c, which is observed

    Args:
        parents: the graph: of each node its parents.
        first: a node, or several.
        second: a node, or several.
        given: what is observed: none, a node, or several.
        max_paths: of the explanation, where the sets are separated.

    Raises :class:`UserError` for unknown nodes, and for sets that overlap.
    """
    sets = {"first": _set(first), "second": _set(second), "given": _set(given)}
    for argument, names in sets.items():
        for name in names:
            if name not in parents:
                raise UserError(f"{argument}: expected nodes of the graph, came {name!r}")
    for one, other in (("first", "second"), ("first", "given"), ("second", "given")):
        for name in sets[one]:
            if name in sets[other]:
                raise UserError(f"{one}: expected no node that is in {other} too, came {name!r}")
    sources, targets, observed = (set(names) for names in sets.values())
    graph = _Graph(parents, observed)
    open_path = graph.open_path(sources, targets)
    if open_path is not None:
        return Separation(False, ((open_path, graph.reasons(open_path)),))
    paths, complete = graph.paths(sources, targets, max_paths)
    return Separation(True, tuple((path, graph.reasons(path)) for path in paths), complete)


def _set(names: str | Collection[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(dict.fromkeys(names))


class _Graph:
    def __init__(self, parents: Parents, observed: set[str]) -> None:
        self._parents = parents
        self._children = children_of(parents)
        self._observed = observed
        self._has_observed_below = observed | ancestors(parents, sorted(observed))

    def open_path(self, sources: set[str], targets: set[str]) -> tuple[str, ...] | None:
        """A path that nothing blocks, as short as any; none if every path is blocked.

        States are nodes with the direction in which they were entered: ``up`` from a child, ``down`` from a parent.
        """
        came_from: dict[tuple[str, str], tuple[str, str] | None] = {}
        queue: deque[tuple[str, str]] = deque()
        for name in sorted(sources):
            came_from[name, "up"] = None
            queue.append((name, "up"))
        while queue:
            at = queue.popleft()
            name, direction = at
            if name in targets:
                return self._simple(self._trace(at, came_from))
            steps: list[tuple[str, str]] = []
            if name not in self._observed:
                if direction == "up":
                    steps += [(parent, "up") for parent in self._parents[name]]
                steps += [(child, "down") for child in self._children[name]]
            if direction == "down" and name in self._has_observed_below:
                steps += [(parent, "up") for parent in self._parents[name]]
            for step in steps:
                if step not in came_from:
                    came_from[step] = at
                    queue.append(step)
        return None

    @staticmethod
    def _trace(at: tuple[str, str], came_from: dict[tuple[str, str], tuple[str, str] | None]) -> list[str]:
        trail = []
        step: tuple[str, str] | None = at
        while step is not None:
            trail.append(step[0])
            step = came_from[step]
        return trail[::-1]

    @staticmethod
    def _simple(trail: list[str]) -> tuple[str, ...]:
        """A trail goes down to an observed descendant and back up: the detour is cut, it opens the node above."""
        path: dict[str, None] = {}
        for name in trail:
            if name in path:
                while next(reversed(path)) != name:
                    path.popitem()
            path[name] = None
        return tuple(path)

    def paths(self, sources: set[str], targets: set[str], limit: int) -> tuple[list[tuple[str, ...]], bool]:
        """Simple paths of the undirected graph, shortest first, up to a limit; and whether these are all."""
        around = {name: sorted({*self._parents[name], *self._children[name]}) for name in self._parents}
        found: list[tuple[str, ...]] = []
        queue: deque[tuple[str, ...]] = deque((name,) for name in sorted(sources))
        tried = 0
        while queue and len(found) < limit and tried < 100 * limit:
            path = queue.popleft()
            tried += 1
            for other in around[path[-1]]:
                if other in targets:
                    found.append((*path, other))
                elif other not in path and other not in sources:
                    queue.append((*path, other))
        return found[:limit], not queue and len(found) <= limit

    @cached_property
    def _observed_below(self) -> dict[str, str]:
        """Of each node that has an observed descendant, the nearest."""
        nearest: dict[str, str] = {}
        queue = deque((name, name) for name in sorted(self._observed))
        while queue:
            name, witness = queue.popleft()
            for parent in self._parents[name]:
                if parent not in nearest:
                    nearest[parent] = witness
                    queue.append((parent, witness))
        return nearest

    def reasons(self, path: tuple[str, ...]) -> tuple[PathNode, ...]:
        """Of every node between the ends: how the arrows meet, and what follows."""
        nodes = []
        for before, name, after in zip(path, path[1:], path[2:], strict=False):
            enters = before in self._parents[name], after in self._parents[name]
            seen = name in self._observed
            if all(enters):
                below = self._observed_below.get(name)
                if seen:
                    reason = f"head-to-head at {name}, which is observed"
                elif below:
                    reason = f"head-to-head at {name}, whose descendant {below} is observed"
                else:
                    reason = f"head-to-head at {name}, of which neither it nor a descendant is observed"
                nodes.append(PathNode(name, "head-to-head", not (seen or below), reason))
                continue
            kind = "head-to-tail" if any(enters) else "tail-to-tail"
            reason = f"{kind} at {name}, which is {'observed' if seen else 'not observed'}"
            nodes.append(PathNode(name, kind, seen, reason))
        return tuple(nodes)
