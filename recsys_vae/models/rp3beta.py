"""RP3beta: a random walk of three steps (Paudel, Christoffel, Newell & Bernstein 2016, "Updatable, accurate, diverse,
and scalable recommendations for interactive applications", ACM TiiS 7(1)).
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse import csr_array, diags_array
from torch import Tensor

from recsys_vae.models.base import ClosedFormModel, check_interval, check_positive
from recsys_vae.models.sparse_weights import SparseWeights, keep_strongest


class RP3Beta(ClosedFormModel):
    """Walk from a user to an item of the history, to a user who has it, to an item of theirs.

    The weight from item i to item j is ``sum over users u of (x_ui / n_i)^alpha (x_uj / n_u)^alpha / n_j^beta``, with
    the sums ``n_i``, ``n_j`` and ``n_u`` of an item's and a user's entries: the probabilities of the two last steps, to
    the power ``alpha``, and less of them for popular items.

    Args:
        n_items: size of the catalogue; comes from the data.
        n_neighbours: the largest weights to each item are kept.
        alpha: power of the transition probabilities.
        beta: power of the popularity by which a score is divided.
    """

    def __init__(self, n_items: int, n_neighbours: int = 100, alpha: float = 0.8, beta: float = 0.4) -> None:
        super().__init__(n_items)
        check_positive("model.n_neighbours", n_neighbours)
        check_interval("model.alpha", alpha, 0.0, float("inf"))
        check_interval("model.beta", beta, 0.0, float("inf"))
        self.n_neighbours = min(n_neighbours, n_items)
        self.alpha = alpha
        self.beta = beta
        self.sparse = SparseWeights(n_items, n_items * self.n_neighbours)

    def fit(self, matrix: csr_array) -> RP3Beta:
        """Weights are formed a block of items at a time, never all at once."""
        self.check_histories(matrix)
        values = matrix.astype(np.float64)
        of_user, of_item = (np.asarray(values.sum(axis=axis)).ravel() for axis in (1, 0))
        steps = values.copy()
        steps.data **= self.alpha
        to_item = diags_array(_power(of_user, -self.alpha)) @ steps @ diags_array(_power(of_item, -self.beta))
        to_user = (steps @ diags_array(_power(of_item, -self.alpha))).tocsr()
        by_target = to_item.T.tocsr()

        def to_targets(targets: slice) -> csr_array:
            return csr_array(by_target[targets] @ to_user)

        strongest = keep_strongest(to_targets, self.n_items, self.n_neighbours)
        self.sparse.store(strongest.T.tocsr())
        return self

    @torch.no_grad()
    def score(self, histories: csr_array) -> Float[Tensor, "users items"]:
        """Sum over the history's items of the weight to each item."""
        self.check_histories(histories)
        return self.sparse.product(histories).to(self.device)

    def item_weights(self, items: slice) -> csr_array:
        """Rows of the weights that were kept."""
        return csr_array(self.sparse.matrix()[items])


def _power(sums: np.ndarray, exponent: float) -> np.ndarray:
    """0 where there is nothing to divide among."""
    return np.where(sums > 0.0, np.where(sums > 0.0, sums, 1.0) ** exponent, 0.0)
