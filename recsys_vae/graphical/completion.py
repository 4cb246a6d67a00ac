"""The joint mode of a tree of binary variables among configurations with a given number of ones.

Max-sum with a count carried along: a message says the best score of a subtree for every number of ones in it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recsys_vae.errors import UserError
from recsys_vae.graphical.pairwise_tree import BinaryTree

_BLOCK_ENTRIES = 2**22  # scores in one array: 32 MiB


class Completion(NamedTuple):
    """The most probable configuration of each case, and its log-probability, nats."""

    values: Int[Tensor, "cases nodes"]
    log_score: Float[Tensor, " cases"]


class _Merge(NamedTuple):
    """One round in which the messages of neighbouring siblings become one, pair by pair.

    ``to_right`` says, for each state of the parent and each number of ones, how many of them go to the right.
    """

    left: Tensor
    kept: Tensor
    to_right: Int[Tensor, "pairs states counts cases"]


def most_probable_completion(
    tree: BinaryTree, evidence: Int[Tensor, "cases nodes"], n_ones: int
) -> Completion:
    """The most probable configuration in which ``n_ones`` of the unobserved nodes are 1. ``O(nodes n_ones^2)`` a case.

    Args:
        tree: the law.
        evidence: 0 or 1, and -1 where nothing is observed; the ones among it do not count.
        n_ones: how many, from 0.

    Raises :class:`UserError` as :meth:`BinaryTree.sum_product`, when fewer nodes are unobserved, and when every such
    configuration is impossible. Of configurations that tie, it is one.
    """
    tree.check_evidence(evidence)
    free = (evidence < 0).sum(dim=1)
    if isinstance(n_ones, bool) or n_ones < 0 or (len(free) and n_ones > int(free.min())):
        least = int(free.min()) if len(free) else 0
        raise UserError(f"n_ones: expected a number from 0 to {least}, the unobserved nodes, came {n_ones!r}")
    values = torch.empty(evidence.shape, dtype=torch.int64)
    log_score = torch.empty(len(evidence), dtype=torch.float64)
    size = max(1, _BLOCK_ENTRIES // (2 * (n_ones + 1) * tree.n_nodes))
    for start in range(0, len(evidence), size):
        cases = slice(start, min(start + size, len(evidence)))
        ordered, log_score[cases] = _decode(tree, evidence[cases].T[tree.order], n_ones)
        values[cases] = ordered[tree.rank].T
        tree.refuse_contradiction(evidence, log_score, cases)
    return Completion(values, log_score)


def _decode(tree: BinaryTree, observed: Tensor, n_ones: int) -> tuple[Tensor, Tensor]:
    """Values ``(nodes, cases)`` by level, and the score of each case."""
    n_nodes, n_cases = observed.shape
    below: Tensor | None = None  # messages from the level beneath, merged, of the nodes that have children
    owners = torch.empty(0, dtype=torch.int64)
    take_one = torch.empty((n_nodes, 2, n_ones + 1, n_cases), dtype=torch.bool)
    rounds: list[tuple[Tensor, list[_Merge]]] = []
    for level in reversed(tree.levels):
        own = torch.full((level.stop - level.start, 2, n_ones + 1, n_cases), -torch.inf, dtype=torch.float64)
        own[:, :, 0] = 0.0
        if below is not None:
            own[owners - level.start] = below
        here = observed[level].unsqueeze(1)
        zero = own[:, 0].masked_fill(here == 1, -torch.inf)
        counted = torch.full_like(zero, -torch.inf)
        counted[:, 1:] = own[:, 1, :-1]
        one = torch.where(here < 0, counted, own[:, 1]).masked_fill(here == 0, -torch.inf)
        tables = tree.tables[level].unsqueeze(-1)
        if_zero, if_one = tables[:, :, 0] + zero.unsqueeze(1), tables[:, :, 1] + one.unsqueeze(1)
        take_one[level] = if_one > if_zero
        message = torch.maximum(if_zero, if_one)
        owners, below, merges = _merge(tree.above[level], message)
        rounds.append((owners, merges))
    assert below is not None
    log_score = below[0, 0, n_ones]

    values = torch.empty((n_nodes, n_cases), dtype=torch.int64)
    left = torch.full((1, n_cases), n_ones, dtype=torch.int64)  # ones below each node of the level above
    owners_start = 0
    for level, (owners, merges) in zip(tree.levels, reversed(rounds), strict=True):
        if level.start > 0:
            left = left[owners - owners_start]
        above = tree.above[level]
        state = values[above] if level.start > 0 else torch.zeros_like(values[level])
        counts = _split(merges, left, state[_first_of_each(above)])
        chosen = take_one[level].gather(1, state[:, None, None].expand(-1, 1, n_ones + 1, -1)).squeeze(1)
        values[level] = chosen.gather(1, counts.unsqueeze(1)).squeeze(1).to(torch.int64)
        left = counts - values[level] * (observed[level] < 0)
        owners_start = level.start
    return values, log_score


def _first_of_each(owner: Tensor) -> Tensor:
    """Positions at which a run of equal numbers begins."""
    new = torch.ones(len(owner), dtype=torch.bool)
    new[1:] = owner[1:] != owner[:-1]
    return new.nonzero().squeeze(1)


def _merge(owner: Tensor, message: Tensor) -> tuple[Tensor, Tensor, list[_Merge]]:
    """One message for each owner, neighbours being added pair by pair until one is left."""
    merges: list[_Merge] = []
    while True:
        first = _first_of_each(owner)
        if len(first) == len(owner):
            return owner, message, merges
        sizes = torch.diff(first, append=torch.tensor([len(owner)]))
        rank = torch.arange(len(owner)) - first.repeat_interleave(sizes)
        has_right = rank + 1 < sizes.repeat_interleave(sizes)
        kept = (rank % 2 == 0).nonzero().squeeze(1)
        left = ((rank % 2 == 0) & has_right).nonzero().squeeze(1)
        joined, to_right = _joined(message[left], message[left + 1])
        message = message.clone()
        message[left] = joined
        message, owner = message[kept], owner[kept]
        merges.append(_Merge(left, kept, to_right))


def _joined(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """The best total of two messages for every number of ones of both together, and how many go to the right."""
    best = left + right[:, :, :1]
    to_right = torch.zeros(best.shape, dtype=torch.int16)
    for count in range(1, best.shape[2]):
        candidate = left[:, :, : best.shape[2] - count] + right[:, :, count : count + 1]
        better = candidate > best[:, :, count:]
        best[:, :, count:] = torch.where(better, candidate, best[:, :, count:])
        to_right[:, :, count:].masked_fill_(better, count)
    return best, to_right


def _split(merges: list[_Merge], counts: Tensor, owner_state: Tensor) -> Tensor:
    """From the ones of each owner's children together to those of each child."""
    owner_of_slot = torch.arange(len(counts))
    for merge in reversed(merges):
        n_slots = len(merge.kept) + len(merge.left)
        spread = torch.zeros((n_slots, counts.shape[1]), dtype=torch.int64)
        owners = torch.zeros(n_slots, dtype=torch.int64)
        spread[merge.kept] = counts
        owners[merge.kept] = owner_of_slot
        owners[merge.left + 1] = owners[merge.left]
        state = owner_state[owners[merge.left]]
        n_counts = merge.to_right.shape[2]
        of_state = merge.to_right.gather(1, state[:, None, None].expand(-1, 1, n_counts, -1)).squeeze(1)
        right = of_state.gather(1, spread[merge.left].unsqueeze(1)).squeeze(1).to(torch.int64)
        spread[merge.left + 1] = right
        spread[merge.left] -= right
        counts, owner_of_slot = spread, owners
    return counts
