"""A sparse Gaussian Markov random field learned from sparse data (Steck 2019, "Markov Random Fields for
Collaborative Filtering", NeurIPS 2019, arXiv:1910.09645).

Besag's auto-normal form: the mean of each variable given all others is linear in its neighbours. Which pairs are
neighbours is read off the covariances (section 3.1 of the paper); the weights come from regressions in blocks of
variables (section 3.2), so that no matrix over all of them is ever inverted.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.linalg import lapack
from scipy.sparse import csr_array, vstack

from recsys_vae.errors import UserError

_BLOCK_ENTRIES = 2**23  # covariances formed at a time: 64 MiB
_DENSE_VARIABLES = 2**15  # up to so many, products of variables are kept as a dense float32 matrix: 4 GiB
_ROUNDING = 1e-10


class SparseGaussianField(NamedTuple):
    """``E[x_j | all others] = mean_j + sum over i of (x_i - mean_i) weights_ij``.

    ``weights`` is ``(variables, variables)``, without a diagonal; in float32, like ``mean``.
    """

    weights: csr_array
    mean: np.ndarray


class _Neighbours(NamedTuple):
    """The neighbours of variable j are ``others[offsets[j]:offsets[j + 1]]``, the strongest first."""

    offsets: np.ndarray
    others: np.ndarray

    def of(self, variable: int) -> np.ndarray:
        return self.others[self.offsets[variable] : self.offsets[variable + 1]]


def max_weights(n_variables: int, density: float) -> int:
    """How many weights a field of some density has at most: two for each pair of neighbours."""
    return 2 * min(int(density * n_variables**2 / 2.0), n_variables * (n_variables - 1) // 2)


def sparse_gaussian_field(
    data: csr_array,
    *,
    density: float,
    l2: float,
    alpha: float = 0.75,
    block_share: float = 0.1,
    max_neighbours: int = 1000,
) -> SparseGaussianField:
    """Learn neighbours and weights.

    Args:
        data: ``(cases, variables)``.
        density: the share of all pairs, at most, that get a weight: those of the largest scaled covariances. Where
            some tie, the lowest are taken.
        l2: is added to the diagonal of the scaled covariance matrix.
        alpha: the covariances of i and j are divided by ``(s_i s_j)^alpha``, s being the square root of a
            variable's sum of squared deviations: 0 leaves them as they are, 1 makes them correlations.
        block_share: the paper's r. A regression of a variable and its neighbours on each other gives the weights
            also of this share of them, the strongest. Near 0 every variable has a regression of its own, with all
            its neighbours: slower, and more exact.
        max_neighbours: a variable keeps no more of them; bounds the size of the regressions.

    Raises :class:`UserError` for an empty matrix and for settings out of range.
    """
    _check(data, density, l2, alpha, block_share, max_neighbours)
    n_cases, n_variables = data.shape
    data = data.astype(np.float64)
    mean = np.asarray(data.sum(axis=0)).ravel() / n_cases
    squares = np.asarray(data.multiply(data).sum(axis=0)).ravel()
    deviation = squares - n_cases * mean**2
    varies = deviation > _ROUNDING * squares
    scale = np.where(varies, np.where(varies, deviation, 1.0) ** (-alpha / 2.0), 0.0)

    covariance = _Covariance(data, mean, scale)
    neighbours = _strongest_pairs(covariance, max_weights(n_variables, density) // 2, max_neighbours)
    popularity = np.where(varies, deviation * scale**2, 0.0)
    values = _regress(covariance, neighbours, l2, block_share, popularity)
    columns = np.repeat(np.arange(n_variables), np.diff(neighbours.offsets))
    safe = np.where(varies, scale, 1.0)
    values *= safe[neighbours.others] / safe[columns]
    kept = values != 0.0
    weights = csr_array(
        (values[kept].astype(np.float32), (neighbours.others[kept], columns[kept])),
        shape=(n_variables, n_variables),
    )
    weights.sort_indices()
    return SparseGaussianField(weights, mean.astype(np.float32))


def _check(
    data: csr_array, density: float, l2: float, alpha: float, block_share: float, max_neighbours: int
) -> None:
    if data.ndim != 2 or 0 in data.shape:
        raise UserError(f"data: expected a matrix (cases, variables), came {data.shape}")
    for name, value, fits in (
        ("density", density, 0.0 < density <= 1.0),
        ("l2", l2, 0.0 < l2 < math.inf),
        ("alpha", alpha, 0.0 <= alpha <= 1.0),
        ("block_share", block_share, 0.0 <= block_share <= 1.0),
    ):
        if isinstance(value, bool) or not fits:
            allowed = {"density": "(0, 1]", "l2": "(0, inf)"}.get(name, "[0, 1]")
            raise UserError(f"{name}: expected a number in {allowed}, came {value!r}")
    if isinstance(max_neighbours, bool) or max_neighbours < 1:
        raise UserError(f"max_neighbours: expected a whole number of at least 1, came {max_neighbours!r}")


class _Covariance:
    """Sums over cases of the products of two variables' deviations, scaled, a part at a time."""

    def __init__(self, data: csr_array, mean: np.ndarray, scale: np.ndarray) -> None:
        self.n_variables = data.shape[1]
        self._mean = mean * math.sqrt(data.shape[0])
        self._scale = scale
        self._products = _products(data)

    def rows(self, variables: np.ndarray) -> np.ndarray:
        """Of some variables with all."""
        return self._centred(self._products[variables], variables, np.arange(self.n_variables))

    def among(self, variables: np.ndarray) -> np.ndarray:
        """Of some variables with each other."""
        return self._centred(self._products[variables][:, variables], variables, variables)

    def _centred(self, products: np.ndarray | csr_array, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        centred = products if isinstance(products, np.ndarray) else products.toarray()
        centred = centred.astype(np.float64)
        centred -= np.outer(self._mean[left], self._mean[right])
        centred *= self._scale[left][:, None]
        centred *= self._scale[right]
        return centred


def _products(data: csr_array) -> np.ndarray | csr_array:
    """Sums over cases of products, float32: exact for counts below 2^24."""
    n_variables = data.shape[1]
    by_variable = data.T.tocsr()
    blocks = _blocks(n_variables)
    if n_variables > _DENSE_VARIABLES:
        return csr_array(
            vstack([(by_variable[rows] @ data).astype(np.float32) for rows in blocks], format="csr")
        )
    products = np.empty((n_variables, n_variables), dtype=np.float32)
    for rows in blocks:
        products[rows] = (by_variable[rows] @ data).toarray()
    return products


def _blocks(n_variables: int) -> list[slice]:
    size = max(1, _BLOCK_ENTRIES // n_variables)
    return [slice(start, min(start + size, n_variables)) for start in range(0, n_variables, size)]


def _strongest_pairs(covariance: _Covariance, n_pairs: int, max_neighbours: int) -> _Neighbours:
    """The pairs of the largest covariances in size, and of those the strongest of each variable."""
    n_variables = covariance.n_variables
    low, high = np.empty(0, dtype=np.int32), np.empty(0, dtype=np.int32)
    strength = np.empty(0)
    for rows in _blocks(n_variables):
        block = np.abs(covariance.rows(np.arange(rows.start, rows.stop)))
        weakest = strength.min() if n_pairs and len(strength) == n_pairs else 0.0
        above_diagonal = np.arange(n_variables) > np.arange(rows.start, rows.stop)[:, None]
        row, column = np.nonzero((block > weakest) & above_diagonal)
        low = np.concatenate([low, (row + rows.start).astype(np.int32)])
        high = np.concatenate([high, column.astype(np.int32)])
        strength = np.concatenate([strength, block[row, column]])
        kept = _largest(strength, n_pairs)
        low, high, strength = low[kept], high[kept], strength[kept]
    index, of, strength = np.concatenate([low, high]), np.concatenate([high, low]), np.tile(strength, 2)
    order = np.lexsort((index, -strength, of))
    index, of = index[order], of[order]
    start = np.searchsorted(of, np.arange(n_variables))
    kept = np.arange(len(of)) - start[of] < max_neighbours
    counts = np.bincount(of[kept], minlength=n_variables)
    return _Neighbours(np.concatenate([[0], np.cumsum(counts)]), index[kept])


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    """Positions of the ``count`` largest, in order; of those that tie for the last places, the first."""
    if len(values) <= count:
        return np.arange(len(values))
    threshold = np.partition(values, len(values) - count)[len(values) - count] if count else np.inf
    chosen = values > threshold
    ties = np.flatnonzero(values == threshold)
    chosen[ties[: count - int(chosen.sum())]] = True
    return np.flatnonzero(chosen)


def _regress(
    covariance: _Covariance, neighbours: _Neighbours, l2: float, block_share: float, popularity: np.ndarray
) -> np.ndarray:
    """A weight for each entry of ``neighbours``: section 3.2 of the paper, averaged where blocks overlap.

    A block is a variable, of those that have no weights yet the one of most neighbours, and its neighbours.
    """
    counts = np.diff(neighbours.offsets)
    total, times = np.zeros(len(neighbours.others)), np.zeros(len(neighbours.others))
    place = np.full(covariance.n_variables, -1)
    waiting = np.ones(covariance.n_variables, dtype=bool)
    for variable in np.lexsort((-popularity, -counts)).tolist():
        if not waiting[variable]:
            continue
        block = np.concatenate([[variable], neighbours.of(variable)])
        solved = block[: max(1, math.ceil(len(block) * block_share))]
        waiting[solved] = False
        weights = _regressions(covariance.among(block), l2, len(solved))
        place[block] = np.arange(len(block))
        for column, target in enumerate(solved):
            entries = np.arange(neighbours.offsets[target], neighbours.offsets[target + 1])
            rows = place[neighbours.others[entries]]
            inside = rows >= 0
            total[entries[inside]] += weights[rows[inside], column]
            times[entries[inside]] += 1.0
        place[block] = -1
    return total / np.maximum(times, 1.0)


def _regressions(covariance: np.ndarray, l2: float, count: int) -> np.ndarray:
    """Weights of the first ``count`` on all: ``-P_ij / P_jj``, P being the inverse of the regularised matrix."""
    covariance[np.diag_indices_from(covariance)] += l2
    factor, info = lapack.dpotrf(covariance.T, lower=1, overwrite_a=1, clean=0)
    if info != 0:
        raise UserError(
            f"l2: {l2} leaves the covariances of {len(covariance)} variables singular; expected more"
        )
    inverse, _ = lapack.dpotrs(factor, np.eye(len(covariance), count), lower=1)
    weights: np.ndarray = inverse / -inverse.diagonal()
    return weights
