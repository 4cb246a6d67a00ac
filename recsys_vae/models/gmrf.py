"""A sparse Gaussian Markov random field over items (Steck 2019, arXiv:1910.09645)."""

from __future__ import annotations

import logging

import torch
from jaxtyping import Float
from scipy.sparse import csr_array
from torch import Tensor

from recsys_vae.graphical.sparse_gaussian_field import max_weights, sparse_gaussian_field
from recsys_vae.models.base import ClosedFormModel, check_interval, check_positive
from recsys_vae.models.sparse_weights import SparseWeights

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
        self.sparse = SparseWeights(n_items, max_weights(n_items, density))
        self.intercept: Tensor
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
        self.sparse.store(field.weights)
        self.intercept.copy_(torch.from_numpy(field.mean - field.weights.T @ field.mean))
        return self

    def weights(self) -> csr_array:
        """From the item had (row) to the item scored (column)."""
        return self.sparse.matrix()

    @torch.no_grad()
    def score(self, histories: csr_array) -> Float[Tensor, "users items"]:
        """``x B + mean - mean B``."""
        self.check_histories(histories)
        return self.sparse.product(histories).add_(self.intercept.cpu()).to(self.device)
