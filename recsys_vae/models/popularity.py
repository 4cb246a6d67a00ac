"""The baseline that every recommender must beat: the same list for everyone."""

from __future__ import annotations

import torch
from jaxtyping import Float
from scipy.sparse import csr_array
from torch import Tensor

from recsys_vae.models.base import ClosedFormModel


class Popularity(ClosedFormModel):
    """Score an item by its share of the training interactions (by weight, where interactions have one)."""

    def __init__(self, n_items: int) -> None:
        super().__init__(n_items)
        self.share: Tensor
        self.register_buffer("share", torch.zeros(n_items, dtype=torch.float64))

    def fit(self, matrix: csr_array) -> Popularity:
        """Count."""
        self.check_histories(matrix)
        counts = torch.from_numpy(matrix.sum(axis=0, dtype="float64"))
        self.share.copy_(counts / counts.sum().clamp_min(1.0))
        return self

    @torch.no_grad()
    def score(self, histories: csr_array) -> Float[Tensor, "users items"]:
        """The shares, once for every user."""
        self.check_histories(histories)
        return self.share.repeat(histories.shape[0], 1)
