"""Principal components of a sparse matrix, whose centred form is never written out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.linalg import eigh
from scipy.sparse import csr_array
from scipy.sparse.linalg import LinearOperator, eigsh

_DENSE_LIMIT = (
    2048  # up to here the smaller of the two Gram matrices is formed: 32 MiB, and quicker than Lanczos
)


class PrincipalComponents(NamedTuple):
    """The leading eigenpairs of the covariance of a matrix's rows, with divisor ``users``, by falling variance.

    ``mean_square`` is the mean of a row's squared length, ``total_variance`` that of its distance to ``mean``.
    """

    mean: Float[np.ndarray, " items"]
    directions: Float[np.ndarray, "items components"]
    variances: Float[np.ndarray, " components"]
    total_variance: float
    mean_square: float


def principal_components(matrix: csr_array, n_components: int) -> PrincipalComponents:
    """The ``n_components`` directions of largest variance; fewer than users and than items.

    From a dense Gram matrix over users or items, where there are few of either, else by Lanczos' method with a fixed
    start, at ``O(nnz)`` a step. Each direction's sign makes its largest entry positive.
    """
    n_users, n_items = matrix.shape
    mean = np.asarray(matrix.sum(axis=0)).ravel() / n_users
    mean_square = float(matrix.data @ matrix.data) / n_users
    if min(n_users, n_items) > _DENSE_LIMIT:
        variances, directions = _by_lanczos(matrix, mean, n_components)
    elif n_items <= n_users:
        gram = (matrix.T @ matrix).toarray() / n_users
        variances, directions = _leading(gram - np.outer(mean, mean), n_components)
    else:
        variances, directions = _by_user_gram(matrix, mean, n_components)
    return PrincipalComponents(
        mean=mean,
        directions=_fix_signs(directions),
        variances=np.maximum(variances, 0.0),
        total_variance=max(mean_square - float(mean @ mean), 0.0),
        mean_square=mean_square,
    )


def _leading(symmetric: np.ndarray, n_components: int) -> tuple[np.ndarray, np.ndarray]:
    size = len(symmetric)
    values, vectors = eigh(symmetric, subset_by_index=(size - n_components, size - 1))
    return values[::-1], vectors[:, ::-1]


def _by_user_gram(matrix: csr_array, mean: np.ndarray, n_components: int) -> tuple[np.ndarray, np.ndarray]:
    """With C the centred matrix, ``C C'`` has the eigenvalues of ``C'C``, whose eigenvectors are ``C'u``."""
    n_users = matrix.shape[0]
    gram = (matrix @ matrix.T).toarray()
    along_mean = matrix @ mean
    gram += mean @ mean - along_mean[:, None] - along_mean[None, :]
    variances, users = _leading(gram / n_users, n_components)
    directions = matrix.T @ users  # C' u, since each u is at right angles to the ones, which C' takes to 0
    # Where there is no variance there is no direction either, and the quotient is at least finite.
    return variances, directions / np.maximum(np.linalg.norm(directions, axis=0), np.finfo(float).tiny)


def _by_lanczos(matrix: csr_array, mean: np.ndarray, n_components: int) -> tuple[np.ndarray, np.ndarray]:
    n_users, n_items = matrix.shape
    transposed = matrix.T.tocsr()

    def covariance_times(vector: np.ndarray) -> np.ndarray:
        centred = matrix @ vector - mean @ vector
        product: np.ndarray = transposed @ centred / n_users  # the entries of centred sum to 0
        return product

    operator = LinearOperator((n_items, n_items), matvec=covariance_times, dtype=np.float64)
    start = np.random.default_rng(0).standard_normal(n_items)
    variances, directions = eigsh(operator, k=n_components, which="LA", v0=start)
    order = np.argsort(variances)[::-1]
    return variances[order], directions[:, order]


def _fix_signs(directions: np.ndarray) -> np.ndarray:
    """The first of the entries that are largest up to rounding is to be positive."""
    sizes = np.abs(directions)
    first = (sizes >= (1.0 - 1e-6) * sizes.max(axis=0)).argmax(axis=0)
    chosen = directions[first, np.arange(directions.shape[1])]
    signed: np.ndarray = directions * np.where(chosen < 0.0, -1.0, 1.0)
    return signed
