"""Sparse weighted least squares on two sides, users and items: the arithmetic of matrix factorisation.

Every pair counts, so no sum over pairs is ever formed: what all have in common is a Gram matrix of factors, and what is
left touches the observed pairs only (Hu, Koren & Volinsky 2008, section 4).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.sparse import csr_array
from torch import Tensor
from torch.nn.functional import embedding_bag

# Entries of a padded block: its gathered factors stay in a processor's cache.
_BLOCK_ENTRIES = 16_384


@dataclass(frozen=True)
class Side:
    """The observed pairs, seen from the rows: ``columns`` and ``values`` of row r lie between two ``offsets``."""

    offsets: Int[Tensor, " rows_plus_one"]
    columns: Int[Tensor, " nnz"]
    values: Float[Tensor, " nnz"]
    n_columns: int

    @classmethod
    def of(cls, matrix: csr_array, dtype: torch.dtype) -> Side:
        """The rows of a matrix in canonical form."""
        return cls(
            torch.from_numpy(matrix.indptr.astype(np.int64)),
            torch.from_numpy(matrix.indices.astype(np.int64)),
            torch.from_numpy(np.asarray(matrix.data)).to(dtype),
            matrix.shape[1],
        )

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self.offsets) - 1

    def row_sums(self, values: Float[Tensor, " nnz"]) -> Float[Tensor, " rows"]:
        """Of one number a pair, in float64."""
        sums = torch.nn.functional.pad(values.double().cumsum(0), (1, 0))
        return sums[self.offsets].diff()

    def pattern(self) -> Tensor:
        """The pairs as a sparse tensor of zeros, for :func:`products`."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
            return torch.sparse_csr_tensor(
                self.offsets,
                self.columns,
                torch.zeros_like(self.values),
                size=(self.n_rows, self.n_columns),
                check_invariants=False,
            )

    def weighted_sums(
        self, weights: Float[Tensor, " nnz"], factors: Float[Tensor, "columns latent"]
    ) -> Float[Tensor, "rows latent"]:
        """``sum_j weights_rj factors_j`` over the pairs of each row."""
        return embedding_bag(
            self.columns,
            factors,
            self.offsets,
            mode="sum",
            per_sample_weights=weights,
            include_last_offset=True,
        )

    def blocks(self) -> Iterator[Block]:
        """All rows, those of like length together, padded to the longest of their block."""
        lengths = self.offsets.diff()
        order = lengths.argsort(descending=True, stable=True)
        start = 0
        while start < len(order):
            longest = max(1, int(lengths[order[start]]))
            rows = order[start : start + max(1, _BLOCK_ENTRIES // longest)]
            places = self.offsets[rows].unsqueeze(-1) + torch.arange(longest)
            beyond = torch.arange(longest) >= lengths[rows].unsqueeze(-1)
            places.masked_fill_(beyond, 0)
            if not len(self.columns):
                nothing = places.new_zeros(len(rows), 0)
                yield Block(rows, nothing, nothing.to(self.values.dtype))
            else:
                values = self.values[places].masked_fill_(beyond, 0.0)
                yield Block(rows, self.columns[places], values)
            start += len(rows)


class Block(NamedTuple):
    """Some rows, with their columns and values; padding has value 0."""

    rows: Int[Tensor, " batch"]
    columns: Int[Tensor, "batch longest"]
    values: Float[Tensor, "batch longest"]

    def gram(self, factors: Float[Tensor, "columns latent"]) -> Float[Tensor, "batch latent latent"]:
        """``sum_j value_rj factor_j factor_j'``."""
        gathered = factors[self.columns]
        gram: Tensor = (gathered * self.values.unsqueeze(-1)).mT @ gathered
        return gram


def products(
    pattern: Tensor, rows: Float[Tensor, "rows latent"], columns: Float[Tensor, "columns latent"]
) -> Float[Tensor, " nnz"]:
    """The inner products of the factors of each pair."""
    values: Tensor = torch.sparse.sampled_addmm(pattern, rows, columns.mT, beta=0.0).values()
    return values


@dataclass(frozen=True)
class WeightedFactorisation:
    """One side's problem while the other's factors are fixed: a ridge regression for each row.

    With ``x`` the row's factors, ``y_j`` those of column j, ``r`` the pairs' values and ``a`` the unobserved weight::

        sum over pairs of (a + r_j) (1 - x'y_j)^2  +  a * sum over other columns of (x'y_j)^2  +  penalty * |x|^2

    whose gradient vanishes at ``(a Y'Y + sum r_j y_j y_j' + penalty I) x = sum (a + r_j) y_j``: equation 4 of Hu, Koren
    & Volinsky (2008), divided by their alpha, ``a = 1 / alpha``.
    """

    side: Side
    unobserved_weight: float
    penalty: Float[Tensor, " rows"]

    def descend(
        self,
        start: Float[Tensor, "rows latent"],
        factors: Float[Tensor, "columns latent"],
        pattern: Tensor,
        n_steps: int,
    ) -> Float[Tensor, "rows latent"]:
        """Conjugate gradients from ``start``, all rows at once (Takács, Pilászy & Tikk 2011); no step goes up.

        ``O(nnz * latent + rows * latent^2)`` a step.
        """
        a, values = self.unobserved_weight, self.side.values
        shared = a * (factors.mT @ factors)
        penalty = self.penalty.to(start.dtype).unsqueeze(-1)
        curved = partial(self._curved, factors, pattern, shared, penalty)
        residual = self.side.weighted_sums(a + values, factors) - curved(start)
        solution, direction = start.clone(), residual.clone()
        squares = residual.square().sum(dim=-1, keepdim=True)
        tiny = torch.finfo(start.dtype).tiny
        for step in range(n_steps):
            image = curved(direction)
            size = squares / (direction * image).sum(dim=-1, keepdim=True).clamp_min(tiny)
            solution.addcmul_(size, direction)
            if step + 1 < n_steps:
                residual.addcmul_(size, image, value=-1.0)
                before, squares = squares, residual.square().sum(dim=-1, keepdim=True)
                direction.mul_(squares / before.clamp_min(tiny)).add_(residual)
        return solution

    def _curved(self, factors: Tensor, pattern: Tensor, shared: Tensor, penalty: Tensor, x: Tensor) -> Tensor:
        """Every row's matrix times its ``x``, without making the matrices."""
        weights = products(pattern, x, factors) * self.side.values
        return self.side.weighted_sums(weights, factors).addmm_(x, shared).addcmul_(penalty, x)

    def normal_equations(
        self, factors: Float[Tensor, "columns latent"]
    ) -> Iterator[
        tuple[Int[Tensor, " batch"], Float[Tensor, "batch latent latent"], Float[Tensor, "batch latent"]]
    ]:
        """Some rows at a time: which, their matrices, and their right-hand sides."""
        a = self.unobserved_weight
        shared = a * (factors.mT @ factors)
        right = self.side.weighted_sums(a + self.side.values, factors)
        for block in self.side.blocks():
            matrices = block.gram(factors).add_(shared)
            matrices.diagonal(dim1=-2, dim2=-1).add_(self.penalty[block.rows].to(factors.dtype).unsqueeze(-1))
            yield block.rows, matrices, right[block.rows]

    def squared_error(
        self,
        rows: Float[Tensor, "rows latent"],
        factors: Float[Tensor, "columns latent"],
        pattern: Tensor,
    ) -> float:
        """The first two sums of the objective, over all rows, in float64: where the fit is close they nearly cancel."""
        a, values = self.unobserved_weight, self.side.values.double()
        rows, factors = rows.double(), factors.double()
        everywhere = a * float((rows.mT @ rows).mul(factors.mT @ factors).sum())
        predicted = products(pattern.double(), rows, factors)
        at_pairs = (a + values) * (1.0 - predicted).square() - a * predicted.square()
        return everywhere + float(at_pairs.sum())
