"""A sparse matrix from items to items among a model's buffers, and its product with a batch of histories."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse import csr_array
from torch import Tensor, nn

from recsys_vae.models.gram_matrix import row_blocks

_BLOCK_ENTRIES = 2**24  # similarities held at a time, at most: 192 MiB, were none of them 0


class SparseWeights(nn.Module):
    """``(items, items)`` from the item had (row) to the item scored (column), rows compressed.

    Buffers have room for ``capacity`` entries whatever is stored, so that their shapes follow from the arguments; what
    is left free of ``targets`` and ``values`` stays 0.
    """

    def __init__(self, n_items: int, capacity: int) -> None:
        super().__init__()
        self.n_items = n_items
        index_type = torch.int32 if capacity < 2**31 else torch.int64
        self.offsets: Tensor
        self.targets: Tensor
        self.values: Tensor
        self.register_buffer("offsets", torch.zeros(n_items + 1, dtype=index_type))
        self.register_buffer("targets", torch.zeros(capacity, dtype=index_type))
        self.register_buffer("values", torch.zeros(capacity))

    def store(self, weights: csr_array) -> None:
        """Take over the entries of ``weights``, no more than there is room for."""
        self.offsets.copy_(torch.from_numpy(weights.indptr))
        self.targets.zero_()[: weights.nnz] = torch.from_numpy(weights.indices)
        self.values.zero_()[: weights.nnz] = torch.from_numpy(weights.data)

    def matrix(self) -> csr_array:
        """What was stored, on the host."""
        offsets = self.offsets.cpu().numpy()
        n_weights = int(offsets[-1])
        values, targets = self.values[:n_weights].cpu().numpy(), self.targets[:n_weights].cpu().numpy()
        return csr_array((values, targets, offsets), shape=(self.n_items, self.n_items))

    def product(self, histories: csr_array) -> Float[Tensor, "users items"]:
        """``histories weights`` on the host, a product of sparse matrices whose outcome is dense."""
        rows, weights = histories.astype(np.float32), self.matrix()
        has_mkl = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
        if not has_mkl or weights.indptr.dtype != np.int32:
            return torch.from_numpy((rows @ weights).toarray())
        # MKL writes into the dense outcome: several times quicker than SciPy, which makes a third sparse matrix first.
        scores = torch.zeros(rows.shape[0], self.n_items)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
            return scores.addmm_(_sparse_tensor(rows), _sparse_tensor(weights))


def _sparse_tensor(matrix: csr_array) -> Tensor:
    offsets, columns = (
        torch.from_numpy(part.astype(np.int32, copy=False)) for part in (matrix.indptr, matrix.indices)
    )
    values = torch.from_numpy(matrix.data)
    return torch.sparse_csr_tensor(offsets, columns, values, size=matrix.shape, check_invariants=False)


def keep_strongest(similarities: Callable[[slice], csr_array], n_items: int, count: int) -> csr_array:
    """The ``count`` largest positive entries of each row of a matrix ``(items, items)``, off its diagonal.

    ``similarities`` gives some of its rows; it is asked for a block at a time: the matrix never exists as a whole.
    """
    lengths, columns, values = [], [], []
    for rows in row_blocks(n_items, _BLOCK_ENTRIES):
        block = similarities(rows)
        for row in range(block.shape[0]):
            entries = slice(block.indptr[row], block.indptr[row + 1])
            value, column = block.data[entries], block.indices[entries]
            kept = np.flatnonzero((value > 0.0) & (column != rows.start + row))
            if len(kept) > count:
                kept = kept[np.argpartition(value[kept], len(kept) - count)[len(kept) - count :]]
            lengths.append(len(kept))
            columns.append(column[kept].astype(np.int32))
            values.append(value[kept].astype(np.float32))
    index_pointer = np.concatenate([[0], np.cumsum(lengths)])
    if index_pointer[-1] < 2**31:
        index_pointer = index_pointer.astype(np.int32)
    strongest = csr_array(
        (np.concatenate(values), np.concatenate(columns), index_pointer), shape=(n_items, n_items)
    )
    strongest.sort_indices()
    return strongest
