"""A sparse Gaussian Markov random field over items (Steck 2019, arXiv:1910.09645)."""

from __future__ import annotations

import logging
import warnings

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse import csr_array
from torch import Tensor

from recsys_vae.graphical.sparse_gaussian_field import max_weights, sparse_gaussian_field
from recsys_vae.models.base import ClosedFormModel, check_interval, check_positive

log = logging.getLogger(__name__)


class GMRF(ClosedFormModel):
    """Score an item by its mean given all others, which is linear in the few items that are its neighbours.

    Weights are kept as a sparse matrix of at most ``density * n_items**2`` entries, and scoring is a product of
    sparse matrices.

    Args:
        n_items: size of the catalogue; comes from the data.
        density: the share of all pairs of items, at most, that have a weight.
        l2: the paper's lambda, on covariances scaled by ``alpha``.
        alpha: how far popular items' covariances are scaled down: 0 not at all, 1 to correlations.
        block_share: the paper's r: near 0 every item has a regression of its own, which is exact; the larger, the
            quicker the fit.
        max_neighbours: an item keeps no more; bounds the size of the regressions.
    """

    def __init__(
        self,
        n_items: int,
        density: float = 0.03,
        l2: float = 6.0,
        alpha: float = 0.75,
        block_share: float = 0.02,
        max_neighbours: int = 1000,
    ) -> None:
        super().__init__(n_items)
        check_interval("model.density", density, 0.0, 1.0, include_low=False, include_high=True)
        check_interval("model.l2", l2, 0.0, float("inf"), include_low=False)
        check_interval("model.alpha", alpha, 0.0, 1.0, include_high=True)
        check_interval("model.block_share", block_share, 0.0, 1.0, include_high=True)
        check_positive("model.max_neighbours", max_neighbours)
        self.density = density
        self.l2 = l2
        self.alpha = alpha
        self.block_share = block_share
        self.max_neighbours = max_neighbours
        capacity = max_weights(n_items, density)
        self.offsets: Tensor
        self.targets: Tensor
        self.values: Tensor
        self.intercept: Tensor
        # Rows of the weights, compressed; what the field leaves free of targets and values stays 0.
        self.register_buffer("offsets", torch.zeros(n_items + 1, dtype=_index_type(capacity)))
        self.register_buffer("targets", torch.zeros(capacity, dtype=_index_type(capacity)))
        self.register_buffer("values", torch.zeros(capacity))
        self.register_buffer("intercept", torch.zeros(n_items))

    def fit(self, matrix: csr_array) -> GMRF:
        """Find neighbours and weights; up to 32,768 items, ``4 * n_items**2`` bytes hold their common users."""
        self.check_histories(matrix)
        field = sparse_gaussian_field(
            matrix,
            density=self.density,
            l2=self.l2,
            alpha=self.alpha,
            block_share=self.block_share,
            max_neighbours=self.max_neighbours,
        )
        n_weights = field.weights.nnz
        log.info("gmrf: %d weights, %.2f %% of all", n_weights, 100.0 * n_weights / self.n_items**2)
        self.offsets.copy_(torch.from_numpy(field.weights.indptr))
        self.targets.zero_()[:n_weights] = torch.from_numpy(field.weights.indices)
        self.values.zero_()[:n_weights] = torch.from_numpy(field.weights.data)
        self.intercept.copy_(torch.from_numpy(field.mean - field.weights.T @ field.mean))
        return self

    def weights(self) -> csr_array:
        """From the item had (row) to the item scored (column)."""
        offsets = self.offsets.cpu().numpy()
        n_weights = int(offsets[-1])
        values, targets = self.values[:n_weights].cpu().numpy(), self.targets[:n_weights].cpu().numpy()
        return csr_array((values, targets, offsets), shape=(self.n_items, self.n_items))

    @torch.no_grad()
    def score(self, histories: csr_array) -> Float[Tensor, "users items"]:
        """``x B + mean - mean B``."""
        self.check_histories(histories)
        return _dense_product(histories.astype(np.float32), self.weights(), self.intercept.cpu()).to(
            self.device
        )


def _index_type(n_weights: int) -> torch.dtype:
    return torch.int32 if n_weights < 2**31 else torch.int64


def _dense_product(
    rows: csr_array, weights: csr_array, intercept: Float[Tensor, " items"]
) -> Float[Tensor, "users items"]:
    """``rows weights + intercept`` on the host, a product of sparse matrices whose outcome is dense."""
    has_mkl = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
    if not has_mkl or weights.indptr.dtype != np.int32:
        return torch.from_numpy((rows @ weights).toarray()).add_(intercept)
    # MKL writes into the dense outcome: several times quicker than SciPy, which makes a third sparse matrix first.
    scores = torch.zeros(rows.shape[0], weights.shape[1])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
        scores.addmm_(_sparse_tensor(rows), _sparse_tensor(weights))
    return scores.add_(intercept)


def _sparse_tensor(matrix: csr_array) -> Tensor:
    offsets, columns = (
        torch.from_numpy(part.astype(np.int32, copy=False)) for part in (matrix.indptr, matrix.indices)
    )
    values = torch.from_numpy(matrix.data)
    return torch.sparse_csr_tensor(offsets, columns, values, size=matrix.shape, check_invariants=False)
