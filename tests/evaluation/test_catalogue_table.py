from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from recsys_vae.evaluation.catalogue import catalogue_table, cumulative_counts


def test_counts_events_up_to_each_cutoff() -> None:
    rng = np.random.default_rng(0)
    labels, ranks, ks = rng.integers(0, 7, 500), rng.integers(0, 30, 500), [1, 5, 20]
    counts = cumulative_counts(labels, ranks, ks, 7)
    expected = [[((labels == label) & (ranks < k)).sum() for label in range(7)] for k in ks]
    np.testing.assert_array_equal(counts, expected)


def test_numbers_worked_by_hand() -> None:
    recommended = np.array([[4, 0, 0, 0], [3, 3, 3, 3], [1, 2, 1, 0]])
    table = catalogue_table(recommended, [1, 3, 9], np.array([8, 4, 4, 0]))
    assert table["k"].tolist() == [1, 3, 9]
    assert table["coverage"].tolist() == [0.25, 1.0, 0.75]
    assert table["popularity"].tolist() == [8.0, 4.0, 5.0]
    assert table["novelty"].tolist() == [1.0, (1 + 2 + 2 + 4) / 4, (1 + 2 * 2 + 2) / 4]
    # Gini: mean absolute difference of all pairs over twice the mean.
    np.testing.assert_allclose(table["gini"], [0.75, 0.0, 12 / 16 / 2], atol=1e-15)


def test_gini_is_half_the_relative_mean_difference() -> None:
    counts = np.random.default_rng(1).integers(0, 50, 40)
    gini = catalogue_table(counts[None], [5], np.ones(40)).loc[0, "gini"]
    difference = np.abs(counts[:, None] - counts).mean()
    assert gini == pytest.approx(difference / (2 * counts.mean()), abs=1e-14)


def test_the_order_of_the_items_does_not_matter() -> None:
    rng = np.random.default_rng(2)
    recommended, item_counts = rng.integers(0, 9, (2, 30)), rng.integers(0, 99, 30)
    order = rng.permutation(30)
    pd.testing.assert_frame_equal(
        catalogue_table(recommended, [1, 2], item_counts),
        catalogue_table(recommended[:, order], [1, 2], item_counts[order]),
    )


def test_nothing_recommended() -> None:
    row = catalogue_table(np.zeros((1, 3), dtype=np.int64), [2], np.array([1, 1, 1])).loc[0]
    assert row["coverage"] == 0
    assert all(math.isnan(row[name]) for name in ("popularity", "novelty", "gini"))
