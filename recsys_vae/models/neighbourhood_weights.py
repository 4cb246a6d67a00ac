"""The weights of a linear autoencoder with few entries in each column, for catalogues whose inverse is too large.

Column j of the weights is confined to the rows S of j and its ``n_neighbours`` nearest items. Within them the solution
is that of :mod:`recsys_vae.models.linear_autoencoder`: ``b = e_j - gamma_j C e_j`` with the inverse C of the block
``(G + Lambda)_SS``. Items that share no user are no neighbours; where all do and all are, nothing is left out.

Near are items of a large correlation ``A_ij = G_ij / sqrt((G_ii + Lambda_ii) (G_jj + Lambda_jj))``. Of this matrix,
whose blocks are what is solved, each item's largest ``4 * n_neighbours`` entries are kept and the others are 0, as in
the thresholded covariances of Steck 2019 (arXiv:1910.09645, section 3.1).
"""

from __future__ import annotations

import logging

import numpy as np
from jaxtyping import Float
from scipy.linalg import lapack
from scipy.sparse import coo_array, csr_array, diags_array

from recsys_vae.models.gram_matrix import gram_diagonal
from recsys_vae.models.progress import Progress
from recsys_vae.models.sparse_weights import keep_strongest

log = logging.getLogger(__name__)

_CORRELATIONS_A_NEIGHBOUR = 4


def working_memory(n_items: int, n_neighbours: int) -> int:
    """About the bytes that :func:`neighbourhood_weights` takes at its peak: correlations, in both orders and merged."""
    kept = n_items * min(_CORRELATIONS_A_NEIGHBOUR * n_neighbours, n_items)
    return 40 * kept + 32 * n_items * (n_neighbours + 1)


def neighbourhood_weights(
    weighted: csr_array, ridge: Float[np.ndarray, " items"], max_diagonal: float, n_neighbours: int
) -> csr_array:
    """Weights ``(items, items)`` with at most ``n_neighbours + 1`` entries in a column.

    Args:
        weighted: the users' histories times the roots of their weights.
        ridge: the diagonal of Lambda, positive.
        max_diagonal: bound of an item's weight for itself.
        n_neighbours: of each item.
    """
    n_items = len(ridge)
    scale = 1.0 / np.sqrt(gram_diagonal(weighted) + ridge)
    correlations = _correlations(weighted, scale, _CORRELATIONS_A_NEIGHBOUR * n_neighbours)
    rows, values, n_shrunk = [], [], 0
    progress = Progress(log, "neighbourhoods", n_items, "item")
    for item in range(n_items):
        progress(item)
        near = slice(correlations.indptr[item], correlations.indptr[item + 1])
        others, strength = correlations.indices[near], correlations.data[near]
        if len(others) > n_neighbours:
            others = others[np.argpartition(-strength, n_neighbours)[:n_neighbours]]
        block = np.concatenate([[item], others])
        among = correlations[block][:, block].toarray().astype(np.float64)
        among[np.diag_indices_from(among)] = 1.0
        first, shrunk = first_column_of_inverse(among)
        n_shrunk += shrunk
        inverse = scale[block] * first * scale[item]
        column = -max(ridge[item], (1.0 - max_diagonal) / inverse[0]) * inverse
        column[0] = min(max(1.0 - ridge[item] * inverse[0], 0.0), max_diagonal)
        rows.append(block.astype(np.int32))
        values.append(column.astype(np.float32))
    if n_shrunk:
        log.info("%d of %d neighbourhoods had their correlations shrunk to be definite", n_shrunk, n_items)
    columns = np.repeat(np.arange(n_items, dtype=np.int32), [len(block) for block in rows])
    weights = coo_array(
        (np.concatenate(values), (np.concatenate(rows), columns)), shape=(n_items, n_items)
    ).tocsr()
    weights.eliminate_zeros()
    return weights


def _correlations(weighted: csr_array, scale: Float[np.ndarray, " items"], count: int) -> csr_array:
    """Those off the diagonal that are among the ``count`` largest of either item; symmetric."""
    scaled = (weighted @ diags_array(scale)).tocsr()
    by_item = scaled.T.tocsr()

    def rows_of(rows: slice) -> csr_array:
        return csr_array(by_item[rows] @ scaled)

    strongest = keep_strongest(rows_of, len(scale), count)
    return strongest.maximum(strongest.T.tocsr()).tocsr()


def first_column_of_inverse(matrix: Float[np.ndarray, "n n"]) -> tuple[Float[np.ndarray, " n"], bool]:
    """Of a correlation matrix, and whether it had to be shrunk towards the identity.

    Without its small entries it need not be positive definite; half way to the identity, again and again, it will be.
    """
    unit = np.zeros((len(matrix), 1))
    unit[0] = 1.0
    share = 1.0
    while True:
        shrunk = matrix * share
        shrunk[np.diag_indices_from(shrunk)] = 1.0
        _, solution, info = lapack.dposv(shrunk.T, unit, lower=1, overwrite_a=1)
        if info == 0:
            return solution[:, 0], share < 1.0
        share /= 2.0
