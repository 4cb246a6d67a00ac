"""Max-sum on trees: the joint mode, by back-pointers (Bishop 2006, section 8.4.5)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from recsys_vae.graphical.factor_graph import DiscreteGraph
from recsys_vae.graphical.factor_tree import FactorTree
from recsys_vae.graphical.log_tables import MAX_TABLE
from recsys_vae.graphical.marginals import JointMode
from recsys_vae.graphical.variables import Evidence

# Scores closer than this, relative to their size, count as equal.
_ROUNDING = 1e-12


def max_sum(
    graph: DiscreteGraph, evidence: Mapping[str, Any] | None = None, *, max_table: int = MAX_TABLE
) -> JointMode:
    """The most probable configuration of all variables together, which the modes of the marginals need not be.

    >>> from recsys_vae.graphical import FactorGraph
    >>> chain = FactorGraph({"a": 2, "b": 2}, [(("a", "b"), [[0.0, 1.0], [0.5, 0.0]])])
    >>> max_sum(chain).configuration()
    {'a': 0, 'b': 1}

    Args:
        graph: of any kind, whose factor graph has no cycles; it may be in several parts.
        evidence: a state for each observed variable; or for each a list of states, for many cases at once.
        max_table: cases go in blocks whose messages have at most so many entries.

    Raises :class:`UserError` for a graph with a cycle, showing it, and for contradictory evidence, naming it.
    """
    tree = FactorTree.of(graph, "max_sum")
    observed = Evidence.of(evidence, tree.states)
    parts = [_decode(tree, observed, cases) for cases in tree.blocks(observed.n_cases, max_table)]
    positions, score, unique = (torch.cat(part, dim=-1) for part in zip(*parts, strict=True))
    observed.refuse_contradiction(score)
    if not observed.batched:
        positions, score, unique = positions[:, 0], score[0], unique[0]
    return JointMode(tree.states, dict(zip(tree.names, positions.unbind(0), strict=True)), score, unique)


def _decode(tree: FactorTree, observed: Evidence, cases: slice) -> tuple[Tensor, Tensor, Tensor]:
    """Position of each variable's state ``(variables, cases)``, the score of each case, and whether no other ties."""
    n_cases = cases.stop - cases.start
    best = tree.local(observed, cases)
    pointers = []
    for group in reversed(tree.groups):
        flat = group.with_messages(best).expand(-1, n_cases, *group.tables.shape[2:]).flatten(3)
        message, pointer = flat.max(dim=3)
        pointers.append((pointer, _ties(flat, message)))
        best[:, :, : message.shape[-1]].index_add_(0, group.parent, message)
    at_root, position_of_root = best[tree.roots].max(dim=2)
    positions = torch.zeros(len(tree.names), n_cases, dtype=torch.int64)
    positions[tree.roots] = position_of_root
    tied = _ties(best[tree.roots], at_root).any(dim=0)
    for group, (pointer, ties) in zip(tree.groups, reversed(pointers), strict=True):
        chosen = positions[group.parent].unsqueeze(-1)
        flat_position = pointer.gather(2, chosen).squeeze(-1)
        tied |= ties.gather(2, chosen).squeeze(-1).any(dim=0)
        for axis in range(len(group.children) - 1, -1, -1):
            size = group.tables.shape[3 + axis]
            positions[group.children[axis]] = flat_position % size
            flat_position = flat_position // size
    return positions, tree.constant + at_root.sum(dim=0), ~tied


def _ties(scores: Tensor, best: Tensor) -> Tensor:
    """Whether more than one of the scores along the last axis is the best, up to rounding."""
    near = best - _ROUNDING * best.abs().clamp(min=1.0).where(best > -torch.inf, 0.0)
    return (scores >= near.unsqueeze(-1)).sum(dim=-1) > 1
