"""The baselines against definitions written out in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from contract import ModelContract
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_histories import random_histories

from recsys_vae.models import EASE, EDLAE, ItemKNN, Popularity
from recsys_vae.models import item_knn as item_knn_module


class TestPopularity(ModelContract):
    learns_tastes = False

    def fresh(self, n_items):
        return Popularity(n_items)

    def fitted(self, matrix):
        return Popularity(matrix.shape[1]).fit(matrix)

    def test_scores_are_shares(self) -> None:
        matrix = random_histories()
        scores = self.fitted(matrix).score(matrix[[3, 4]]).numpy()
        dense = matrix.toarray()
        np.testing.assert_allclose(scores, np.tile(dense.sum(0) / dense.sum(), (2, 1)), rtol=1e-12)


class TestItemKNN(ModelContract):
    def fresh(self, n_items):
        return ItemKNN(n_items, n_neighbours=8, shrinkage=2.0)

    def fitted(self, matrix):
        return ItemKNN(matrix.shape[1], n_neighbours=8, shrinkage=2.0).fit(matrix)

    def test_similarities_by_hand(self, monkeypatch) -> None:
        monkeypatch.setattr(item_knn_module, "_BLOCK_ENTRIES", 70)  # blocks of two or three items
        matrix = random_histories(n_users=40, n_items=30, density=0.3)
        dense = matrix.toarray().astype(np.float64)
        common = dense.T @ dense
        norms = np.sqrt(np.diag(common))
        similarity = common / (np.outer(norms, norms) + 2.0)
        np.fill_diagonal(similarity, 0.0)
        kept = np.where(similarity >= np.sort(similarity, axis=1)[:, -8][:, None], similarity, 0.0)
        scores = self.fitted(matrix).score(matrix).numpy()
        tied = (np.sort(similarity, axis=1)[:, -8] - np.sort(similarity, axis=1)[:, -9]) < 1e-9
        # An item whose 8th and 9th neighbours tie may keep either.
        np.testing.assert_allclose(scores[:, ~tied], (dense @ kept.T)[:, ~tied], rtol=1e-5, atol=1e-6)
        assert (~tied).sum() > 10


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
@pytest.mark.parametrize("make", [Popularity, EASE, EDLAE, ItemKNN])
def test_permuting_items_permutes_scores(make, seed) -> None:
    # Shares of real-valued weights: no two neighbours tie, so ItemKNN too has one answer.
    matrix = random_histories(n_users=20, n_items=12, density=0.4, seed=seed)
    matrix.data = np.random.default_rng(seed).uniform(0.5, 1.5, len(matrix.data)).astype(np.float32)
    order = np.random.default_rng(seed).permutation(12)
    shuffled = matrix[:, order].tocsr()
    shuffled.sort_indices()
    scores = make(12).fit(matrix).score(matrix)
    again = make(12).fit(shuffled).score(shuffled)
    torch.testing.assert_close(again, scores[:, order.tolist()], rtol=1e-4, atol=1e-6)
