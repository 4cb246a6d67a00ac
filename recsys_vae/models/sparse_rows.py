"""A batch of sparse histories, and its product with a dense matrix.

The input layer of every model here is a sparse matrix times a dense one. PyTorch's quickest kernel for it, on
CPU and CUDA alike, is ``embedding_bag``: row ``u`` of the product is the weighted sum of the weight rows that
the user's items name. The gradient with respect to the weight is the *transposed* sparse matrix times the
incoming gradient, so it is the same kernel again on the transposed index, never a scatter over the nonzeros.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_array
from torch import Tensor
from torch.nn.functional import embedding_bag


@dataclass(frozen=True)
class SparseRows:
    """A CSR matrix ``(users, items)`` on a device, with its transposed index.

    ``offsets`` has ``users + 1`` entries; ``items``, ``users`` and ``values`` name each nonzero in row order.
    ``column_order`` lists the nonzeros in column order, ``column_offsets`` (``items + 1``) delimits the columns.
    """

    n_users: int
    n_items: int
    offsets: Int[Tensor, " users_plus_one"]
    items: Int[Tensor, " nnz"]
    users: Int[Tensor, " nnz"]
    values: Float[Tensor, " nnz"]
    column_offsets: Int[Tensor, " items_plus_one"]
    column_order: Int[Tensor, " nnz"]

    @classmethod
    def from_csr(cls, matrix: csr_array, device: torch.device | str = "cpu") -> SparseRows:
        """Move a canonical CSR array to ``device``. Costs O(nnz + items) on the host, by counting sort."""
        n_users, n_items = matrix.shape
        nnz = matrix.nnz
        positions = csr_array(
            (np.arange(nnz, dtype=np.int32), matrix.indices, matrix.indptr), shape=(n_users, n_items)
        ).tocsc()
        users = np.repeat(np.arange(n_users, dtype=np.int64), np.diff(matrix.indptr))
        return cls(
            n_users=n_users,
            n_items=n_items,
            offsets=_to(device, matrix.indptr, np.int64),
            items=_to(device, matrix.indices, np.int64),
            users=_to(device, users, np.int64),
            values=_to(device, matrix.data, np.float32),
            column_offsets=_to(device, positions.indptr, np.int64),
            column_order=_to(device, positions.data, np.int64),
        )

    def with_values(self, values: Float[Tensor, " nnz"]) -> SparseRows:
        """Return the same pattern with other values."""
        return replace(self, values=values)

    def row_sums(self, values: Float[Tensor, " nnz"]) -> Float[Tensor, " users"]:
        """Sum one number per nonzero within each user; a user without items gets 0."""
        return values.new_zeros(self.n_users).index_add_(0, self.users, values)

    def normalised(self) -> SparseRows:
        """Scale each user's values to unit Euclidean length; a user without items stays empty."""
        # Squares of weights such as 1e-30 or 1e25 leave the range of float32.
        wide = self.values if self.values.device.type == "mps" else self.values.double()
        norms = self.row_sums(wide.square()).sqrt()
        return self.with_values((wide / norms[self.users]).float())

    def dropout(self, probability: float, generator: torch.Generator | None) -> SparseRows:
        """Hide each nonzero with ``probability`` and scale the others by ``1 / (1 - probability)``."""
        if probability == 0.0:
            return self
        uniform = torch.rand(self.values.shape, generator=generator, device=self.values.device)
        rows = self.keep(uniform >= probability)
        return rows.with_values(rows.values / (1.0 - probability))

    def keep(self, mask: Bool[Tensor, " nnz"]) -> SparseRows:
        """Return the matrix without the nonzeros that ``mask`` leaves out."""
        before = _exclusive_cumulative_sum(mask)
        in_columns = mask[self.column_order]
        kept = torch.nonzero(mask).squeeze(1)
        return replace(
            self,
            offsets=before[self.offsets],
            items=self.items[kept],
            users=self.users[kept],
            values=self.values[kept],
            column_offsets=_exclusive_cumulative_sum(in_columns)[self.column_offsets],
            column_order=before[self.column_order[in_columns]],
        )

    def dense(self) -> Float[Tensor, "users items"]:
        """Return the batch as a dense matrix."""
        out = self.values.new_zeros(self.n_users, self.n_items)
        return out.index_put_((self.users, self.items), self.values)


def _to(device: torch.device | str, array: np.ndarray, dtype: type) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=dtype)).to(device, non_blocking=True)


def _exclusive_cumulative_sum(mask: Bool[Tensor, " n"]) -> Int[Tensor, " n_plus_one"]:
    sums: Tensor = torch.nn.functional.pad(mask.cumsum(0), (1, 0))
    return sums


def weighted_rows(
    rows: SparseRows, weight: Float[Tensor, "items features"]
) -> Float[Tensor, "users features"]:
    """``rows @ weight``, outside automatic differentiation."""
    if weight.device.type == "mps":  # where embedding bags have no weights: dense, but no more than the batch
        return rows.dense().to(weight.dtype) @ weight
    return embedding_bag(
        rows.items,
        weight,
        rows.offsets,
        mode="sum",
        per_sample_weights=rows.values.to(weight.dtype),
        include_last_offset=True,
    )


def transposed_product(
    rows: SparseRows, dense: Float[Tensor, "users features"]
) -> Float[Tensor, "items features"]:
    """``rows.T @ dense``, outside automatic differentiation."""
    if dense.device.type == "mps":
        return rows.dense().to(dense.dtype).t() @ dense
    return embedding_bag(
        rows.users[rows.column_order],
        dense.contiguous(),
        rows.column_offsets,
        mode="sum",
        per_sample_weights=rows.values[rows.column_order].to(dense.dtype),
        include_last_offset=True,
    )


class _SparseProduct(torch.autograd.Function):
    """``rows @ weight`` by embedding bags, forward and backward."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, rows: SparseRows) -> Tensor:
        ctx.rows = rows
        return weighted_rows(rows, weight)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        return transposed_product(ctx.rows, grad_outputs[0]), None


def sparse_product(
    rows: SparseRows, weight: Float[Tensor, "items features"]
) -> Float[Tensor, "users features"]:
    """Product of sparse histories with a dense matrix, differentiable with respect to ``weight``.

    Costs ``O(nnz * features)`` both ways.
    """
    product: Tensor = _SparseProduct.apply(weight, rows)  # type: ignore[no-untyped-call]
    return product
