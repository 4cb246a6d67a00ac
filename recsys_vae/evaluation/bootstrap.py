"""Percentile bootstrap of means over users (Efron 1979): what other users might have given."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

_DRAWS_PER_CHUNK = 2_000_000  # user indices held at a time: 16 MB, and as much again for their counts


def bootstrap_means(
    values: Float64[np.ndarray, "users columns"], *, resamples: int, seed: int
) -> Float64[np.ndarray, "resamples columns"]:
    """Mean of every column over ``users`` drawn with replacement, ``resamples`` times; NaN without users.

    All columns see the same draws, so that their means keep their correlation. Memory is bounded: the
    resamples are drawn in chunks, which leave no trace in the result.
    """
    n_users, n_columns = values.shape
    means = np.full((resamples, n_columns), np.nan)
    if n_users == 0:
        return means
    rng = np.random.default_rng(seed)
    columns = np.ascontiguousarray(values.T)
    chunk = max(1, _DRAWS_PER_CHUNK // n_users)
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        draws = rng.integers(0, n_users, (size, n_users)) + np.arange(size)[:, None] * n_users
        counts = (
            np.bincount(draws.ravel(), minlength=size * n_users).reshape(size, n_users).astype(np.float64)
        )
        # einsum and not a matrix product: BLAS adds in an order that depends on the number of threads.
        means[start : start + size] = np.einsum("ru,cu->rc", counts, columns) / n_users
    return means


def bootstrap_interval(
    values: Float64[np.ndarray, "users columns"], *, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> Float64[np.ndarray, "columns 2"]:
    """Lower and upper end of the central ``level`` share of the bootstrapped means of each column.

    Raises ``ValueError`` unless ``resamples`` is positive and ``level`` lies strictly between 0 and 1.
    """
    if resamples < 1 or not 0.0 < level < 1.0:
        raise ValueError(
            f"resamples, level: expected at least 1 and a number between 0 and 1, got {resamples}, {level}"
        )
    if values.shape[0] == 0:
        return np.full((values.shape[1], 2), np.nan)
    means = bootstrap_means(values, resamples=resamples, seed=seed)
    tail = (1.0 - level) / 2.0
    return np.asarray(np.quantile(means, [tail, 1.0 - tail], axis=0).T)
