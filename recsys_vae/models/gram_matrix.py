"""The Gram matrix of the items, ``G = sum over users u of w_u x_u x_u'``, which all linear models rest on."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.sparse import csr_array

_BLOCK_ENTRIES = 2**24  # written at a time: 128 MiB of float64


def weight_users(matrix: csr_array, exponent: float) -> csr_array:
    """The rows of ``matrix`` times the roots of their users' weights, in float64: its Gram matrix is G.

    A user of ``n_u`` items has the weight ``w_u = c n_u^-exponent``, with the constant that leaves the trace of G what
    it is without weights, so that a ridge means the same for every exponent. 0 counts every user alike; 1 gives
    everyone the same share of that trace.
    """
    lengths = np.diff(matrix.indptr)
    weights = np.maximum(lengths, 1).astype(np.float64) ** -exponent
    squares = matrix.data.astype(np.float64) ** 2
    of_entries = np.repeat(weights, lengths)
    total = float(of_entries @ squares)
    scale = np.sqrt(of_entries * (squares.sum() / total if total > 0.0 else 1.0))
    return csr_array((matrix.data * scale, matrix.indices, matrix.indptr), shape=matrix.shape)


def gram_diagonal(weighted: csr_array) -> Float[np.ndarray, " items"]:
    """The diagonal of the Gram matrix."""
    return np.bincount(weighted.indices, weights=weighted.data**2, minlength=weighted.shape[1])


def write_gram_matrix(weighted: csr_array, out: np.ndarray) -> None:
    """Write the Gram matrix of ``weighted`` into ``out`` ``(items, items)``, a block of rows at a time."""
    by_item = weighted.T.tocsr()
    for rows in row_blocks(len(out), _BLOCK_ENTRIES):
        out[rows] = (by_item[rows] @ weighted).toarray()


def row_blocks(n_items: int, entries: int) -> list[slice]:
    """Slices over the rows of a matrix of ``n_items`` columns, each of about so many entries."""
    size = max(1, entries // n_items)
    return [slice(start, min(start + size, n_items)) for start in range(0, n_items, size)]
