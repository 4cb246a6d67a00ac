"""Pairwise fields learned from sparse binary data by pseudo-likelihood (Besag 1975, "Statistical analysis of
non-lattice data"; regularised and with one parameter for both directions of a pair, Höfling & Tibshirani 2009).

The likelihood of a field needs its partition function; that of every variable given all others does not, and their sum
is concave and has the same maximum in the limit of many cases.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import minimize
from scipy.sparse import csr_array

from recsys_vae.errors import UserError
from recsys_vae.graphical.binary_cases import binary_cases
from recsys_vae.graphical.pairwise_field import BinaryField

_BLOCK_ENTRIES = 2**22  # numbers held dense at a time: 32 MiB


class PseudoLikelihoodFit(NamedTuple):
    """The field, the loss that it has (nats, penalties included), whether the search settled, and its iterations."""

    field: BinaryField
    loss: float
    converged: bool
    n_iterations: int


def fit_pseudo_likelihood(
    data: Any,
    edges: Int[np.ndarray, "two edges"],
    *,
    l2: float = 0.0,
    l1: float = 0.0,
    tolerance: float = 1e-6,
    max_iterations: int = 100,
    on_iteration: Callable[[int], None] = lambda done: None,
) -> PseudoLikelihoodFit:
    """The field on these edges with the smallest loss.

    Minimises :class:`PseudoLikelihood` by L-BFGS-B, in coordinates in which the data are centred and every direction is
    about as steep as any other: biases, which are the log-odds where all others are 0, move much with the couplings
    otherwise.

    Args:
        data: ``(cases, variables)``, sparse or dense: 1 where it is not 0.
        edges: pairs that may have a coupling, each once, such as :func:`strongest_pairs` finds.
        l2: of a coupling's penalty ``l2 / 2 * coupling^2``, against a loss that is summed over the cases.
        l1: of a coupling's penalty ``l1 * |coupling|``, which makes some of them exactly 0.
        tolerance: relative fall of the loss in an iteration, at which the search ends.
        max_iterations: of L-BFGS-B.
        on_iteration: receives the number of each iteration, from 1, when it is done.

    Raises :class:`UserError` for an empty matrix, for edges that are none and for settings out of range.
    """
    for name, value in (("l2", l2), ("l1", l1)):
        if isinstance(value, bool) or not 0.0 <= value < math.inf:
            raise UserError(f"{name}: expected a number in [0, inf), came {value!r}")
    if not 0.0 < tolerance < math.inf:
        raise UserError(f"tolerance: expected a positive number, came {tolerance!r}")
    if isinstance(max_iterations, bool) or max_iterations < 1:
        raise UserError(f"max_iterations: expected a whole number of at least 1, came {max_iterations!r}")
    target = PseudoLikelihood(data, edges, l2=l2)
    coordinates = _Coordinates(target, l1)
    numbers = itertools.count(1)
    found = minimize(
        coordinates.value_and_gradient,
        coordinates.start(),
        jac=True,
        method="L-BFGS-B",
        bounds=coordinates.bounds(),
        callback=lambda position: on_iteration(next(numbers)),
        options={"maxiter": max_iterations, "maxfun": 10 * max_iterations, "ftol": tolerance, "gtol": 0.0},
    )
    couplings, biases = coordinates.parameters(found.x)
    field = BinaryField(torch.from_numpy(target.edges), torch.from_numpy(couplings), torch.from_numpy(biases))
    return PseudoLikelihoodFit(field, float(found.fun), found.status == 0, int(found.nit))


class PseudoLikelihood:
    """Minus the sum, over cases and variables, of the log-probability of a variable given all others; penalised.

    One made-up case is added, in which each variable is 1 by half and all others are 0: it keeps the biases of
    variables finite that are never 1, or always. Values are in nats. The log-odds of some cases at a time are dense.

    Args:
        data: ``(cases, variables)``, sparse or dense: 1 where it is not 0.
        edges: ``(2, edges)``, each pair once.
        l2: weighs half the sum of the squared couplings.

    Raises :class:`UserError` for an empty matrix and for edges that are none.
    """

    def __init__(self, data: Any, edges: Int[np.ndarray, "two edges"], *, l2: float = 0.0) -> None:
        matrix = binary_cases(data).astype(np.float64)
        self.n_cases, self.n_variables = matrix.shape
        self.counts = np.bincount(matrix.indices, minlength=self.n_variables).astype(np.float64)
        self.edges = np.asarray(edges, dtype=np.int64)
        self.l2 = l2
        n_edges = self.edges.shape[1]
        # A field with these edges, for its checks.
        BinaryField(torch.from_numpy(self.edges), torch.zeros(n_edges), torch.zeros(self.n_variables))
        row, column = self.edges.ravel(), self.edges[::-1].ravel()
        order = np.lexsort((column, row))
        self._edge = np.tile(np.arange(n_edges), 2)[order]
        self._row, self._column = row[order], column[order]
        self._offsets = np.searchsorted(self._row, np.arange(self.n_variables + 1))
        size = max(1, _BLOCK_ENTRIES // self.n_variables)
        self._blocks = [
            (block, csr_array(block.T))
            for block in (matrix[start : start + size] for start in range(0, self.n_cases, size))
        ]
        #: In how many cases both variables of an edge are 1.
        self.common = sum(self._at_edges(by, block.toarray()) for block, by in self._blocks) / 2.0

    def value_and_gradient(
        self, couplings: Float[np.ndarray, " edges"], biases: Float[np.ndarray, " variables"]
    ) -> tuple[float, Float[np.ndarray, " edges"], Float[np.ndarray, " variables"]]:
        """The loss, and its gradient with respect to couplings and biases."""
        weights = csr_array(
            (couplings[self._edge], self._column, self._offsets), shape=(self.n_variables, self.n_variables)
        )
        loss = 0.5 * self.l2 * float(couplings @ couplings)
        loss -= 2.0 * float(couplings @ self.common) + float(biases @ (self.counts + 0.5))
        loss += float(np.logaddexp(0.0, biases).sum())
        by_coupling = self.l2 * couplings - 2.0 * self.common
        by_bias = 1.0 / (1.0 + np.exp(-biases)) - self.counts - 0.5
        for block, by_variable in self._blocks:
            log_odds = torch.from_numpy((block @ weights).toarray()).add_(torch.from_numpy(biases))
            # log(1 + exp(x)) = -log(1 - p): p is needed anyway, and of the two logarithms this one is quick.
            complement = torch.sigmoid(-log_odds)
            hidden = complement < 1e-12
            loss -= float(torch.where(hidden, -log_odds, complement.log_()).sum())
            share = log_odds.sigmoid_().numpy()
            by_bias += share.sum(axis=0)
            by_coupling += self._at_edges(by_variable, share)
        return loss, by_coupling, by_bias

    def _at_edges(
        self, by_variable: csr_array, values: Float[np.ndarray, "cases variables"]
    ) -> Float[np.ndarray, " edges"]:
        """Of each edge i, j: the sum over cases in which i is 1 of j's value, and the other way round."""
        total = np.zeros(self.edges.shape[1])
        size = max(1, _BLOCK_ENTRIES // self.n_variables)
        for start in range(0, self.n_variables, size):
            products = by_variable[start : start + size] @ values
            pairs = slice(self._offsets[start], self._offsets[min(start + size, self.n_variables)])
            # A block of rows may hold both directions of an edge.
            total += np.bincount(
                self._edge[pairs],
                products[self._row[pairs] - start, self._column[pairs]],
                minlength=len(total),
            )
        return total


class _Coordinates:
    """Scaled couplings, or their positive and negative parts, and scaled log-odds at the mean of the data."""

    def __init__(self, target: PseudoLikelihood, l1: float) -> None:
        self._target, self._l1 = target, l1
        self._mean = target.counts / target.n_cases
        one, other = target.edges
        spread = target.n_cases * self._mean * (1.0 - self._mean)
        # Of the second derivatives at independence.
        steepness = 2.0 * spread[one] * spread[other] / target.n_cases + target.l2
        self._coupling_scale = 1.0 / np.sqrt(np.maximum(steepness, 1e-3))
        self._bias_scale = 1.0 / np.sqrt(spread + 0.25)

    def start(self) -> np.ndarray:
        """No couplings, and the log-odds of each variable alone."""
        share = (self._target.counts + 0.5) / (self._target.n_cases + 1.0)
        n_parts = self._target.edges.shape[1] * (2 if self._l1 else 1)
        return np.concatenate([np.zeros(n_parts), np.log(share / (1.0 - share)) / self._bias_scale])

    def bounds(self) -> list[tuple[float | None, float | None]] | None:
        """Parts of couplings are at least 0."""
        if not self._l1:
            return None
        n_parts = 2 * self._target.edges.shape[1]
        return [(0.0, None)] * n_parts + [(None, None)] * self._target.n_variables

    def parameters(self, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Couplings and biases."""
        parts, at_mean = np.split(position, [len(position) - self._target.n_variables])
        couplings = self._coupling_scale * (np.subtract(*np.split(parts, 2)) if self._l1 else parts)
        one, other = self._target.edges
        n_variables = self._target.n_variables
        heard = np.bincount(one, couplings * self._mean[other], minlength=n_variables)
        heard += np.bincount(other, couplings * self._mean[one], minlength=n_variables)
        return couplings, self._bias_scale * at_mean - heard

    def value_and_gradient(self, position: np.ndarray) -> tuple[float, np.ndarray]:
        """Of the loss with all penalties."""
        loss, by_coupling, by_bias = self._target.value_and_gradient(*self.parameters(position))
        one, other = self._target.edges
        by_coupling = by_coupling - by_bias[one] * self._mean[other] - by_bias[other] * self._mean[one]
        by_part = self._coupling_scale * by_coupling
        if self._l1:
            penalty = self._l1 * np.tile(self._coupling_scale, 2)
            loss += float(penalty @ position[: len(penalty)])
            by_part = np.concatenate([by_part, -by_part]) + penalty
        return loss, np.concatenate([by_part, self._bias_scale * by_bias])


def strongest_pairs(data: Any, n_neighbours: int) -> Int[np.ndarray, "two edges"]:
    """Pairs of variables of which either is among those that tell the most about the other, by mutual information.

    Formed for a block of variables at a time. Half a case is added to each cell of each pair's table; of variables that
    tie, the lowest are taken.

    Args:
        data: ``(cases, variables)``, sparse or dense: 1 where it is not 0.
        n_neighbours: how many each variable chooses; chosen by others, it may have more.

    Returns: ``(2, edges)``, each pair once and the lower variable first, sorted.

    Raises :class:`UserError` for an empty matrix and a number below 1.
    """
    matrix = binary_cases(data).astype(np.float64)
    if isinstance(n_neighbours, bool) or n_neighbours < 1:
        raise UserError(f"n_neighbours: expected a whole number of at least 1, came {n_neighbours!r}")
    n_cases, n_variables = matrix.shape
    n_chosen = min(n_neighbours, n_variables - 1)
    by_variable = csr_array(matrix.T).astype(np.float64)
    counts = np.bincount(matrix.indices, minlength=n_variables).astype(np.float64)
    size = max(1, _BLOCK_ENTRIES // n_variables)
    chosen = np.empty((n_variables, n_chosen), dtype=np.int64)
    for start in range(0, n_variables, size):
        rows = np.arange(start, min(start + size, n_variables))
        both = (by_variable[rows] @ matrix).toarray()
        information = _information(both, counts[rows, None], counts, n_cases)
        information[np.arange(len(rows)), rows] = -np.inf
        chosen[rows] = np.argsort(-information, axis=1, kind="stable")[:, :n_chosen]
    low = np.minimum(chosen, np.arange(n_variables)[:, None]).ravel()
    high = np.maximum(chosen, np.arange(n_variables)[:, None]).ravel()
    return np.stack(np.divmod(np.unique(low * n_variables + high), n_variables))


def _information(both: np.ndarray, own: np.ndarray, other: np.ndarray, n_cases: int) -> np.ndarray:
    """Cases times mutual information, less what is the same for all."""

    def x_log_x(x: np.ndarray) -> np.ndarray:
        return np.asarray(x * np.log(x))

    cells = x_log_x(both + 0.5) + x_log_x(own - both + 0.5) + x_log_x(other - both + 0.5)
    cells += x_log_x(n_cases - own - other + both + 0.5)
    return np.asarray(cells - x_log_x(other + 1.0) - x_log_x(n_cases - other + 1.0))
