"""From histories in another numbering to the model's, and what happens at its edges."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from made_up_histories import random_histories

from recsys_vae.catalogue import Catalogue
from recsys_vae.errors import UserError
from recsys_vae.exports import Histories
from recsys_vae.models import EASE
from recsys_vae.recommender import Recommender


@pytest.fixture(scope="module")
def recommender() -> Recommender:
    matrix = random_histories(50, 12, seed=3)
    counts = np.diff(matrix.tocsc().indptr).astype(np.int64)
    return Recommender(EASE(12, l2=1.0).fit(matrix), Catalogue(np.arange(100, 112), None, counts))


def test_repeated_and_unknown_items(recommender, caplog) -> None:
    histories = Histories(
        user_ids=np.asarray([7, 8]),
        offsets=np.asarray([0, 3, 5]),
        item_ids=np.asarray([101, 101, 999, 103, 105]),
    )
    with caplog.at_level(logging.WARNING):
        matrix = recommender.matrix_of(histories)
    assert matrix.toarray().tolist() == [[0, 1] + 10 * [0], [0, 0, 0, 1, 0, 1] + 6 * [0]]
    assert "999" in caplog.text
    assert "int64" not in caplog.text


def test_a_history_without_a_known_item_gets_the_popularity_ranking(recommender) -> None:
    table = recommender.recommend(["no such item"], k=4)
    counts = recommender.catalogue.item_counts
    assert list(table["item_id"]) == list(100 + np.argsort(-counts, kind="stable")[:4])


@pytest.mark.parametrize("k", [0, 13, True])
def test_k_out_of_range(recommender, k) -> None:
    with pytest.raises(UserError, match="k: expected"):
        recommender.recommend([101], k=k)
