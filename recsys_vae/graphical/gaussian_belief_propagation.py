"""Belief propagation on Gaussian fields: ``p(x)`` proportional to ``exp(-x'Px / 2 + h'x)`` (Weiss & Freeman 2001)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.sparse import coo_array, csr_array
from torch import Tensor

from recsys_vae.errors import UserError


@dataclass(frozen=True)
class GaussianBeliefs:
    """Means and variances, and whether the messages settled.

    On a tree both are exact. On a graph with cycles the means are exact where the messages settle, the variances are
    approximate.

    Args:
        mean: ``(variables,)``, or ``(cases, variables)`` for a batch of potentials.
        variance: of each variable; it does not depend on the potential.
        converged: whether no message moved by more than the tolerance at the end; always so for a forest.
        n_iterations: rounds through the cycles until then; 0 for a forest.
        residual: largest relative change of a message in the last round, each by its own measure.
    """

    mean: Float[Tensor, "*cases variables"]
    variance: Float[Tensor, " variables"]
    converged: Bool[Tensor, ""]
    n_iterations: Int[Tensor, ""]
    residual: Float[Tensor, ""]


class _Edges(NamedTuple):
    """Both directions of each edge: its ends, its value, and the number of the opposite direction."""

    source: Int[Tensor, " edges"]
    target: Int[Tensor, " edges"]
    value: Float[Tensor, " edges"]
    opposite: Int[Tensor, " edges"]


def gaussian_belief_propagation(
    precision: csr_array,
    potential: Float[Tensor, "*cases variables"],
    *,
    damping: float = 0.0,
    tolerance: float = 1e-10,
    max_iterations: int = 10_000,
) -> GaussianBeliefs:
    """Solve ``precision @ mean = potential`` by messages along the edges, and estimate the variances.

    The branches that hang on cycles, and whole trees, take one pass inwards and one outwards, in time linear in their
    nodes; messages on the cycles are all renewed in every round. These converge on every walk-summable graph
    (Malioutov, Johnson & Willsky 2006), such as a diagonally dominant one.

    Args:
        precision: symmetric, its diagonal positive; zeros are no edges.
        potential: h.
        damping: share of the old message that is kept, in [0, 1).
        tolerance: largest change of a message, relative to the sizes of the terms that it sums, at which it is done.
        max_iterations: rounds.

    Raises :class:`UserError` for a matrix that is not symmetric or has a diagonal that is not positive, and where a
    belief loses its positive precision or the messages grow without bound: the graph is not walk-summable, and this
    algorithm not for it.
    """
    matrix = _checked(precision)
    n = matrix.shape[0]
    _check(potential, n, damping, tolerance, max_iterations)
    edges = _edges_of(matrix)
    # What each variable has heard, its own part included: from its branches first, then along the cycles.
    heard_precision = torch.from_numpy(matrix.diagonal())
    heard_potential = potential.double().reshape(-1, n).clone()
    levels = _branches(edges, n)
    for level in levels:
        source, target, value = edges.source[level], edges.target[level], edges.value[level]
        gain = value / heard_precision[source]
        heard_precision.index_add_(0, target, -gain * value)
        heard_potential.index_add_(1, target, -gain * heard_potential[:, source])
    _refuse_negative(heard_precision, "positive definite")
    on_cycles = torch.ones(n, dtype=torch.bool)
    for level in levels:
        on_cycles[edges.source[level]] = False
    loops = _Loops(_subset(edges, on_cycles), heard_precision, heard_potential)
    residual = torch.zeros((), dtype=torch.float64)
    converged, iteration = not len(loops.edges.source), 0
    while not converged and iteration < max_iterations:
        iteration += 1
        residual = loops.renew(damping, iteration)
        converged = bool(residual <= tolerance)
    total_precision, total_potential = loops.totals()
    _refuse_negative(total_precision, "walk-summable")
    mean, variance = total_potential / total_precision, 1.0 / total_precision
    for level in reversed(levels):
        # Given its neighbour towards the root, a variable knows nothing more to hear: no message need be taken out.
        source, target = edges.source[level], edges.target[level]
        gain = edges.value[level] / heard_precision[source]
        mean[:, source] = heard_potential[:, source] / heard_precision[source] - gain * mean[:, target]
        variance[source] = 1.0 / heard_precision[source] + gain.square() * variance[target]
    return GaussianBeliefs(
        mean if potential.ndim == 2 else mean[0],
        variance,
        torch.tensor(converged),
        torch.tensor(iteration),
        residual,
    )


class _Loops:
    """Messages along edges that no branch takes away: of each a precision, and a potential for each case."""

    def __init__(self, edges: _Edges, precision: Tensor, potential: Tensor) -> None:
        self.edges = edges
        self._own = precision, potential
        self._precision = torch.zeros(len(edges.source), dtype=torch.float64)
        self._potential = torch.zeros(len(potential), len(edges.source), dtype=torch.float64)

    def totals(self) -> tuple[Tensor, Tensor]:
        """What each variable hears: a precision, and a potential for each case."""
        precision, potential = self._own
        return (
            precision.index_add(0, self.edges.target, self._precision),
            potential.index_add(1, self.edges.target, self._potential),
        )

    def renew(self, damping: float, iteration: int) -> Float[Tensor, ""]:
        """All messages once; returns the largest relative change."""
        source, _, value, opposite = self.edges
        total_precision, total_potential = self.totals()
        # All that a variable hears, but from the one that it speaks to.
        cavity_precision = total_precision[source] - self._precision[opposite]
        cavity_potential = total_potential[:, source] - self._potential[:, opposite]
        _refuse_negative(cavity_precision, "walk-summable", source, iteration)
        gain = value / cavity_precision
        precision = damping * self._precision - (1.0 - damping) * gain * value
        potential = damping * self._potential - (1.0 - damping) * gain * cavity_potential
        if not bool(potential.isfinite().all()):
            raise UserError(
                f"precision: expected a walk-summable matrix, the messages grew without bound by round {iteration}; "
                "solve the system directly"
            )
        # Each message is measured by what its sum is made of: no louder part of the graph, nor another case, drowns it,
        # and where terms cancel, their rounding does not keep it from settling.
        own = self._own[1]
        terms = own.abs().index_add(1, self.edges.target, self._potential.abs())[:, source]
        moved = [
            _relative_change(precision, self._precision, precision.abs()),
            _relative_change(potential, self._potential, gain.abs() * terms),
        ]
        self._precision, self._potential = precision, potential
        return torch.stack(moved).max()


def _relative_change(
    new: Float[Tensor, "*cases edges"],
    old: Float[Tensor, "*cases edges"],
    size: Float[Tensor, "*cases edges"],
) -> Float[Tensor, ""]:
    """The largest of all messages, each relative to its size."""
    if not new.numel():
        return torch.zeros((), dtype=torch.float64)
    return ((new - old).abs() / size.clamp(min=1e-300)).max()


def _refuse_negative(
    precision: Tensor, expected: str, variables: Tensor | None = None, iteration: int | None = None
) -> None:
    if bool((precision > 0.0).all()):
        return
    worst = int((~(precision > 0.0)).nonzero()[0])
    worst = worst if variables is None else int(variables[worst])
    when = "" if iteration is None else f" in round {iteration}"
    raise UserError(
        f"precision: expected a {expected} matrix, the belief of variable {worst} lost its positive precision{when}; "
        "solve the system directly"
    )


def _branches(edges: _Edges, n: int) -> list[Int[Tensor, " edges"]]:
    """Edges from the leaves inwards, level by level, until nothing is left but cycles and what lies between them.

    Of a variable with one neighbour left, the sum of the numbers of all its edges that are left is that edge's number:
    no list need be searched, and all levels together cost as much as there are nodes.
    """
    source, target, opposite = edges.source.numpy(), edges.target.numpy(), edges.opposite.numpy()
    degree = np.bincount(source, minlength=n)
    edge_left = np.zeros(n, dtype=np.int64)
    np.add.at(edge_left, source, np.arange(len(source)))
    levels = []
    leaves = np.flatnonzero(degree == 1)
    while len(leaves):
        edge = edge_left[leaves]
        inner = target[edge]
        # Of two that have only each other, one is the root.
        kept = (degree[inner] > 1) | (leaves > inner)
        leaves, edge, inner = leaves[kept], edge[kept], inner[kept]
        levels.append(torch.from_numpy(edge))
        degree[leaves] = 0
        np.subtract.at(degree, inner, 1)
        np.subtract.at(edge_left, inner, opposite[edge])
        inner = np.unique(inner)
        leaves = inner[degree[inner] == 1]
    return levels


def _subset(edges: _Edges, kept: Bool[Tensor, " variables"]) -> _Edges:
    """The edges both of whose ends are kept, numbered anew."""
    chosen = kept[edges.source] & kept[edges.target]
    number = chosen.long().cumsum(0) - 1
    return _Edges(
        edges.source[chosen], edges.target[chosen], edges.value[chosen], number[edges.opposite[chosen]]
    )


def _edges_of(matrix: csr_array) -> _Edges:
    entries = coo_array(matrix)
    rows, columns = entries.coords
    kept = (rows != columns) & (entries.data != 0.0)
    rows, columns, values = rows[kept].astype(np.int64), columns[kept].astype(np.int64), entries.data[kept]
    order = np.lexsort((columns, rows))
    rows, columns, values = rows[order], columns[order], values[order]
    # Sorted by (row, column), the opposite edges in the same order are those sorted by (column, row).
    opposite = np.empty(len(rows), dtype=np.int64)
    opposite[np.lexsort((rows, columns))] = np.arange(len(rows))
    return _Edges(*(torch.from_numpy(part) for part in (rows, columns, values, opposite)))


def _checked(precision: csr_array) -> csr_array:
    """In float64, symmetric to the last bit."""
    matrix = csr_array(precision).astype(np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise UserError(f"precision: expected a square matrix, came {matrix.shape}")
    if not np.isfinite(matrix.data).all():
        raise UserError("precision: expected finite numbers, came NaN or infinity")
    asymmetry = abs(matrix - matrix.T)
    if asymmetry.nnz and asymmetry.max() > 1e-12 * abs(matrix).max():
        raise UserError("precision: expected a symmetric matrix, came one that is not")
    diagonal = matrix.diagonal()
    if not (diagonal > 0.0).all():
        raise UserError(f"precision: expected a positive diagonal, came {diagonal.min():g}")
    return csr_array(0.5 * (matrix + matrix.T))


def _check(potential: Tensor, n: int, damping: float, tolerance: float, max_iterations: int) -> None:
    if potential.ndim not in (1, 2) or potential.shape[-1] != n:
        raise UserError(
            f"potential: expected (variables,) or (cases, variables) of {n}, came {tuple(potential.shape)}"
        )
    if not bool(potential.isfinite().all()):
        raise UserError("potential: expected finite numbers, came NaN or infinity")
    if not 0.0 <= damping < 1.0:
        raise UserError(f"damping: expected a number in [0, 1), came {damping!r}")
    if not 0.0 < tolerance < math.inf:
        raise UserError(f"tolerance: expected a positive number, came {tolerance!r}")
    if isinstance(max_iterations, bool) or max_iterations < 1:
        raise UserError(f"max_iterations: expected a whole number of at least 1, came {max_iterations!r}")
