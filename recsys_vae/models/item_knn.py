"""Item-based nearest neighbours, Sarwar et al. 2001, by Aiolli's asymmetric cosine (2013) with shrinkage."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse import csr_array
from torch import Tensor

from recsys_vae.models.base import ClosedFormModel, check_interval, check_positive
from recsys_vae.models.gram_matrix import gram_diagonal, weight_users
from recsys_vae.models.sparse_weights import SparseWeights, keep_strongest


class ItemKNN(ClosedFormModel):
    """Score an item by the similarities of the history's items to it, each item keeping its nearest neighbours.

    The similarity of item i of the history to item j is ``c_ij / (c_ii^(1 - asymmetry) c_jj^asymmetry + shrinkage)``
    with the co-occurrences ``c_ij = sum_u w_u x_ui x_uj``; at an asymmetry of 0.5 it is the cosine.

    Args:
        n_items: size of the catalogue; comes from the data.
        n_neighbours: how many neighbours an item keeps.
        shrinkage: pulls similarities that rest on few users towards zero.
        asymmetry: share of the scored item's popularity in the denominator, from 0 to 1; the less, the more popular
            the items that are recommended.
        user_exponent: a user of n items has a weight proportional to ``n^-user_exponent``.
    """

    def __init__(
        self,
        n_items: int,
        n_neighbours: int = 100,
        shrinkage: float = 1.0,
        asymmetry: float = 0.4,
        user_exponent: float = 1.0,
    ) -> None:
        super().__init__(n_items)
        check_positive("model.n_neighbours", n_neighbours)
        check_interval("model.shrinkage", shrinkage, 0.0, float("inf"))
        check_interval("model.asymmetry", asymmetry, 0.0, 1.0, include_high=True)
        check_interval("model.user_exponent", user_exponent, 0.0, float("inf"))
        self.n_neighbours = min(n_neighbours, n_items)
        self.shrinkage = shrinkage
        self.asymmetry = asymmetry
        self.user_exponent = user_exponent
        self.sparse = SparseWeights(n_items, n_items * self.n_neighbours)

    def fit(self, matrix: csr_array) -> ItemKNN:
        """Similarities are formed a block of items at a time, never all at once."""
        self.check_histories(matrix)
        weighted = weight_users(matrix, self.user_exponent)
        by_item = weighted.T.tocsr()
        own = gram_diagonal(weighted)
        of_history, of_scored = own ** (1.0 - self.asymmetry), own**self.asymmetry

        def to_targets(targets: slice) -> csr_array:
            similarity = csr_array(by_item[targets] @ weighted)
            scored = np.repeat(of_scored[targets], np.diff(similarity.indptr))
            similarity.data /= scored * of_history[similarity.indices] + self.shrinkage
            return similarity

        strongest = keep_strongest(to_targets, self.n_items, self.n_neighbours)
        self.sparse.store(strongest.T.tocsr())
        return self

    @torch.no_grad()
    def score(self, histories: csr_array) -> Float[Tensor, "users items"]:
        """Sum over the history's items of their similarity, for each item that counts them as neighbours."""
        self.check_histories(histories)
        return self.sparse.product(histories).to(self.device)

    def item_weights(self, items: slice) -> csr_array:
        """Rows of the weights that were kept."""
        return csr_array(self.sparse.matrix()[items])
