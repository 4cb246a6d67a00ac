"""Pairwise fields of binary variables as arrays: ``p(x) ~ exp(sum_i bias_i x_i + sum_(ij) coupling_ij x_i x_j)``.

Sparse fields with cycles, of many thousands of variables, for a batch of cases: loopy sum-product and max-sum (Bishop
2006, section 8.4.7; the Bethe approximation of Yedidia, Freeman & Weiss 2005) and iterated conditional modes (Besag
1986). What a graph of named variables holds factor by factor lies here in index arrays.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recsys_vae.errors import UserError
from recsys_vae.graphical.binary_messages import BinaryMessages, MaxRule, Start, SumRule

_BLOCK_ENTRIES = 2**22  # numbers in one array of messages: 32 MiB
_LARGEST = 700.0  # whose exponential float64 can hold


class LoopyLogOdds(NamedTuple):
    """What loopy sum-product says of each case.

    ``log_odds`` are ``log p(1) - log p(0)`` of every node, nats; of an observed node those that its neighbours'
    messages give, without its own evidence. ``converged`` tells whether no message moved by more than the tolerance at
    the end, ``n_iterations`` the rounds until then. ``log_partition`` sums over the configurations that agree with the
    evidence, in the Bethe approximation, nats: exact on forests, elsewhere neither bound nor exact.
    """

    log_odds: Float[Tensor, "cases nodes"]
    converged: Bool[Tensor, " cases"]
    n_iterations: Int[Tensor, " cases"]
    log_partition: Float[Tensor, " cases"]


class FieldMode(NamedTuple):
    """A configuration of each case, its energy (nats), whether the search settled, and its rounds until then."""

    values: Int[Tensor, "cases nodes"]
    energy: Float[Tensor, " cases"]
    converged: Bool[Tensor, " cases"]
    n_iterations: Int[Tensor, " cases"]


class _Neighbourhood(NamedTuple):
    """Some nodes, and of each pair of one of them and a neighbour: the node's place, the neighbour, the coupling."""

    nodes: Int[Tensor, " some"]
    place: Int[Tensor, " pairs"]
    neighbour: Int[Tensor, " pairs"]
    coupling: Float[Tensor, "pairs one"]


class BinaryField:
    """Nodes that are 0 or 1, and couplings of pairs of them.

    >>> field = BinaryField(torch.tensor([[0], [1]]), torch.tensor([2.0]), torch.tensor([0.0, -1.0]))
    >>> field.energy(torch.tensor([[1, 1], [0, 1]])).tolist()
    [-1.0, 1.0]
    >>> round(loopy_marginals(field, torch.tensor([[1, -1]])).log_odds[0, 1].item(), 10)
    1.0

    Args:
        edges: two different nodes each; no pair comes twice.
        couplings: of the edges, nats, at most 700 in size; positive where both like to be 1 together.
        biases: of the nodes, nats.

    Raises :class:`UserError` for edges that are none, and for numbers out of range.
    """

    def __init__(
        self,
        edges: Int[Tensor, "two edges"],
        couplings: Float[Tensor, " edges"],
        biases: Float[Tensor, " nodes"],
    ) -> None:
        _check_field(edges, couplings, biases)
        self.n_nodes = len(biases)
        self.edges = edges.to(torch.int64)
        self.couplings = couplings.to(torch.float64)
        self.biases = biases.to(torch.float64)

    def energy(self, values: Int[Tensor, "cases nodes"]) -> Float[Tensor, " cases"]:
        """Minus the logarithm of the unnormalised probability of each configuration, nats."""
        _check_cases("values", values, self.n_nodes, lowest=0)
        # Every coupling is heard at both of its ends.
        return -0.5 * ((self._log_odds(values) + self.biases) * values).sum(dim=1)

    def log_odds(self, values: Int[Tensor, "cases nodes"]) -> Float[Tensor, "cases nodes"]:
        """``log p(1 | all others) - log p(0 | all others)`` of every node, nats."""
        _check_cases("values", values, self.n_nodes, lowest=0)
        return self._log_odds(values)

    def _log_odds(self, values: Tensor) -> Tensor:
        parts = torch.split(
            values.T.double(), max(1, _BLOCK_ENTRIES // max(1, 2 * len(self.couplings))), dim=1
        )
        return torch.cat([self.conditional(self._everybody, part.contiguous()) for part in parts], dim=1).T

    def conditional(
        self, of: _Neighbourhood, values: Float[Tensor, "nodes cases"]
    ) -> Float[Tensor, "some cases"]:
        """Log-odds of some nodes given their neighbours' values, node by node; unchecked."""
        heard = self.biases[of.nodes].unsqueeze(1).repeat(1, values.shape[1])
        return heard.index_add_(0, of.place, values.index_select(0, of.neighbour).mul_(of.coupling))

    @functools.cached_property
    def colours(self) -> list[_Neighbourhood]:
        """Groups of nodes of which no two are neighbours: greedily, nodes of many neighbours first."""
        everybody = self._everybody
        degree = torch.bincount(everybody.place, minlength=self.n_nodes)
        by_node = np.split(everybody.neighbour.numpy(), degree.cumsum(0)[:-1].numpy())
        colour = np.full(self.n_nodes, -1)
        for node in np.argsort(-degree.numpy(), kind="stable"):
            taken = np.zeros(len(by_node[node]) + 1, dtype=bool)
            of_neighbours = colour[by_node[node]]
            taken[of_neighbours[(of_neighbours >= 0) & (of_neighbours < len(taken))]] = True
            colour[node] = int(np.argmin(taken))
        colours = torch.from_numpy(colour)
        of_pair = colours[everybody.place]
        rank = torch.empty_like(colours)
        groups = []
        for number in range(int(colour.max(initial=-1)) + 1):
            nodes, pairs = (colours == number).nonzero().squeeze(1), (of_pair == number).nonzero().squeeze(1)
            rank[nodes] = torch.arange(len(nodes))
            groups.append(
                _Neighbourhood(
                    nodes,
                    rank[everybody.place[pairs]],
                    everybody.neighbour[pairs],
                    everybody.coupling[pairs],
                )
            )
        return groups

    @functools.cached_property
    def _everybody(self) -> _Neighbourhood:
        node, neighbour = self.edges.flatten(), self.edges.flip(0).flatten()
        order = torch.argsort(node, stable=True)
        coupling = self.couplings.repeat(2)[order].unsqueeze(1)
        return _Neighbourhood(torch.arange(self.n_nodes), node[order], neighbour[order], coupling)


def loopy_marginals(
    field: BinaryField,
    evidence: Int[Tensor, "cases nodes"],
    *,
    start: Start = "even",
    damping: float = 0.0,
    tolerance: float = 1e-8,
    max_iterations: int = 1000,
) -> LoopyLogOdds:
    """Approximate marginals of every node given what is observed, by sum-product; on forests they are exact.

    Args:
        field: the variables.
        evidence: 0 or 1, and -1 where nothing is observed.
        start: the first messages: ``even``, which prefer no state, or ``zeros``, those of neighbours that are 0. Where
            propagation has several ends, it decides: ``zeros`` where most nodes are 0, else ``even``.
        damping: share of the old log-ratio that a message keeps, in [0, 1); helps where messages oscillate.
        tolerance: largest change of a log-ratio, nats, at which a case is done.
        max_iterations: rounds; a case that has not settled by then says so in ``converged``.

    Raises :class:`UserError` for settings and evidence out of range.
    """
    _check_settings(start, damping, tolerance, max_iterations)
    _check_cases("evidence", evidence, field.n_nodes, lowest=-1)
    parts = []
    for given in _blocks(field, evidence):
        search = BinaryMessages(field.edges, field.couplings, field.biases, given, SumRule, start)
        search.run(damping, tolerance, max_iterations)
        parts.append((search.log_odds().T, search.done, search.n_iterations, search.log_partition()))
    return LoopyLogOdds(*(torch.cat(column) for column in zip(*parts, strict=True)))


def loopy_max_sum(
    field: BinaryField,
    evidence: Int[Tensor, "cases nodes"],
    *,
    start: Start = "even",
    damping: float = 0.0,
    tolerance: float = 1e-8,
    max_iterations: int = 1000,
) -> FieldMode:
    """The configuration that max-sum's beliefs prefer, node by node; a node whose states tie gets 0.

    On forests it is the mode, where that is unique. Elsewhere, where the messages converge and no node ties, no change
    of nodes among which there is at most one cycle improves it (Weiss & Freeman 2001). Arguments and errors are those
    of :func:`loopy_marginals`.
    """
    _check_settings(start, damping, tolerance, max_iterations)
    _check_cases("evidence", evidence, field.n_nodes, lowest=-1)
    parts = []
    for given in _blocks(field, evidence):
        search = BinaryMessages(field.edges, field.couplings, field.biases, given, MaxRule, start)
        search.run(damping, tolerance, max_iterations)
        values = torch.where(given >= 0, given.long(), (search.log_odds().T > 0.0).long())
        parts.append((values, field.energy(values), search.done, search.n_iterations))
    return FieldMode(*(torch.cat(column) for column in zip(*parts, strict=True)))


def iterated_conditional_modes(
    field: BinaryField,
    start: Int[Tensor, "cases nodes"],
    *,
    evidence: Int[Tensor, "given nodes"] | None = None,
    max_sweeps: int = 1000,
) -> FieldMode:
    """Climb from ``start`` to a configuration that no change of a single node improves (Bishop 2006, section 8.3.3).

    All nodes of one colour move at once, and no two of them are neighbours, so the energy never rises. A node moves
    only where that lowers it.

    Args:
        field: the variables.
        start: of each node 0 or 1; where the evidence says otherwise, the evidence holds.
        evidence: 0 or 1, and -1 where a node may move; none: all may.
        max_sweeps: over all nodes; ``n_iterations`` counts them, the last of which changes nothing.

    Raises :class:`UserError` for settings and values out of range.
    """
    _check_rounds("max_sweeps", max_sweeps)
    _check_cases("start", start, field.n_nodes, lowest=0)
    given = torch.full(start.shape, -1) if evidence is None else evidence
    _check_cases("evidence", given, field.n_nodes, lowest=-1)
    if len(given) != len(start):
        raise UserError(f"evidence: expected {len(start)} cases like start, came {len(given)}")
    free = (given < 0).T
    values = torch.where(given < 0, start.long(), given.long()).T.double().contiguous()
    changed = torch.ones(len(start), dtype=torch.bool)
    n_sweeps = torch.zeros(len(start), dtype=torch.int64)
    for _ in range(max_sweeps):
        if not bool(changed.any()):
            break
        n_sweeps += changed
        changed = torch.zeros_like(changed)
        for group in field.colours:
            log_odds, old = field.conditional(group, values), values[group.nodes]
            moves = free[group.nodes] & torch.where(old > 0.0, log_odds < 0.0, log_odds > 0.0)
            values[group.nodes] = torch.where(moves, 1.0 - old, old)
            changed |= moves.any(dim=0)
    modes = values.T.long()
    return FieldMode(modes, field.energy(modes), ~changed, n_sweeps)


def _blocks(field: BinaryField, evidence: Tensor) -> Iterable[Tensor]:
    return torch.split(evidence, max(1, _BLOCK_ENTRIES // max(1, 2 * len(field.couplings), field.n_nodes)))


def _check_field(edges: Tensor, couplings: Tensor, biases: Tensor) -> None:
    if edges.shape[0] != 2:
        raise UserError(f"edges: expected two rows, came {edges.shape[0]}")
    n_nodes = len(biases)
    if edges.numel() and not 0 <= int(edges.min()) <= int(edges.max()) < n_nodes:
        raise UserError(
            f"edges: expected nodes from 0 to {n_nodes - 1}, came {int(edges.min())} to {int(edges.max())}"
        )
    if bool((edges[0] == edges[1]).any()):
        raise UserError(
            f"edges: expected different nodes, came {int(edges[0][edges[0] == edges[1]][0])} twice"
        )
    low, high = edges.long().amin(dim=0), edges.long().amax(dim=0)
    if len(torch.unique(low * n_nodes + high)) < edges.shape[1]:
        raise UserError("edges: expected each pair once, came one twice")
    for name, values, largest in (("couplings", couplings, _LARGEST), ("biases", biases, math.inf)):
        bad = ~(values.isfinite() & (values.abs() <= largest))
        if bool(bad.any()):
            within = f"numbers from -{largest:g} to {largest:g}" if largest < math.inf else "finite numbers"
            raise UserError(f"{name}: expected {within}, came {float(values[bad][0])}")


def _check_cases(name: str, values: Tensor, n_nodes: int, *, lowest: int) -> None:
    if values.shape[1] != n_nodes:
        raise UserError(f"{name}: expected {n_nodes} columns, came {values.shape[1]}")
    if values.numel() and not lowest <= int(values.min()) <= int(values.max()) <= 1:
        allowed = "0 and 1" if lowest == 0 else "0, 1, and -1 for none"
        raise UserError(f"{name}: expected {allowed}, came {int(values.min())} to {int(values.max())}")


def _check_settings(start: Start, damping: float, tolerance: float, max_iterations: int) -> None:
    if start not in ("even", "zeros"):
        raise UserError(f"start: expected even or zeros, came {start!r}")
    if not 0.0 <= damping < 1.0:
        raise UserError(f"damping: expected a number in [0, 1), came {damping!r}")
    if not 0.0 < tolerance < math.inf:
        raise UserError(f"tolerance: expected a positive number, came {tolerance!r}")
    _check_rounds("max_iterations", max_iterations)


def _check_rounds(name: str, value: int) -> None:
    if isinstance(value, bool) or value < 1:
        raise UserError(f"{name}: expected a whole number of at least 1, came {value!r}")
