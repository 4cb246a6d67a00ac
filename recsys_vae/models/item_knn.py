"""Item-based nearest neighbours with shrunk cosine similarity (Sarwar et al. 2001; shrinkage as Bell & Koren 2007)."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse import csr_array
from torch import Tensor

from recsys_vae.models.base import ClosedFormModel, check_interval, check_positive

_BLOCK_ENTRIES = 2**25  # similarities held dense at a time: 128 MiB of float32


class ItemKNN(ClosedFormModel):
    """Score an item by the similarities of the history's items to it, each item keeping its nearest neighbours.

    The similarity of items i and j with co-occurrence ``c_ij`` is ``c_ij / (sqrt(c_ii c_jj) + shrinkage)``.

    Args:
        n_items: size of the catalogue; comes from the data.
        n_neighbours: how many neighbours an item keeps.
        shrinkage: pulls similarities that rest on few users towards zero.
    """

    def __init__(self, n_items: int, n_neighbours: int = 100, shrinkage: float = 10.0) -> None:
        super().__init__(n_items)
        check_positive("model.n_neighbours", n_neighbours)
        check_interval("model.shrinkage", shrinkage, 0.0, float("inf"))
        self.n_neighbours = min(n_neighbours, n_items)
        self.shrinkage = shrinkage
        self.neighbours: Tensor
        self.similarities: Tensor
        self.register_buffer("neighbours", torch.zeros(n_items, self.n_neighbours, dtype=torch.int32))
        self.register_buffer("similarities", torch.zeros(n_items, self.n_neighbours))

    def fit(self, matrix: csr_array) -> ItemKNN:
        """Similarities are formed a block of items at a time, never all at once."""
        self.check_histories(matrix)
        by_item = matrix.T.tocsr().astype(np.float32)
        norms = np.sqrt(np.asarray(by_item.multiply(by_item).sum(axis=1)).ravel())
        block = max(1, _BLOCK_ENTRIES // self.n_items)
        for start in range(0, self.n_items, block):
            rows = slice(start, min(start + block, self.n_items))
            similarity = torch.from_numpy((by_item[rows] @ matrix).toarray())
            scale = torch.from_numpy(np.outer(norms[rows], norms)) + self.shrinkage
            similarity.div_(scale.clamp_min_(torch.finfo(torch.float32).tiny))
            offsets = torch.arange(similarity.shape[0])
            similarity[offsets, offsets + start] = 0.0
            nearest = similarity.topk(self.n_neighbours, dim=-1)
            self.similarities[rows] = nearest.values
            self.neighbours[rows] = nearest.indices.int()
        return self

    @torch.no_grad()
    def score(self, histories: csr_array) -> Float[Tensor, "users items"]:
        """Sum over the history's items of their similarity, for each item that counts them as neighbours."""
        self.check_histories(histories)
        offsets = np.arange(self.n_items + 1, dtype=np.int64) * self.n_neighbours
        similarity = csr_array(
            (
                self.similarities.cpu().numpy().ravel(),
                self.neighbours.cpu().numpy().ravel().astype(np.int64),
                offsets,
            ),
            shape=(self.n_items, self.n_items),
        )
        return torch.from_numpy((histories.astype(np.float32) @ similarity.T).toarray()).to(self.device)
