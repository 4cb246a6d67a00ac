from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_array

from recsys_vae.evaluation.hits import find_hits
from recsys_vae.evaluation.item_popularity import PopularityStrata, popularity_buckets


def test_buckets_are_fifths_of_the_interactions() -> None:
    # 100 interactions; strictly more popular items have 0, 0, 75, 75, 0, 60, 95, 99 of them.
    assert popularity_buckets(np.array([20, 20, 10, 10, 20, 15, 4, 1])).tolist() == [0, 0, 3, 3, 0, 3, 4, 4]
    assert popularity_buckets(np.array([25, 24, 23, 22, 6])).tolist() == [0, 1, 2, 3, 4]
    assert popularity_buckets(np.array([1, 1, 1])).tolist() == [0, 0, 0]
    assert popularity_buckets(np.array([0, 0])).tolist() == [0, 0]
    assert popularity_buckets(np.array([5, 0])).tolist() == [0, 4]


def test_equally_popular_items_share_a_bucket_wherever_they_stand() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 30, 200)
    buckets = popularity_buckets(counts)
    for count in np.unique(counts):
        assert len(set(buckets[counts == count])) == 1
    assert (np.diff(buckets[np.argsort(-counts)]) >= 0).all()
    order = rng.permutation(200)
    np.testing.assert_array_equal(popularity_buckets(counts[order]), buckets[order])


@pytest.fixture
def batch() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    item_counts = np.array([50, 40, 30, 20, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 1, 1])
    ranked = np.array([rng.permutation(16)[:10] for _ in range(30)])
    ranked[4, 6:] = -1
    targets = rng.random((30, 16)) < 0.3
    targets[2] = False
    return item_counts, ranked, targets


def test_equals_pooled_counts_and_the_jackknife(batch: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    item_counts, ranked, targets = batch
    strata = PopularityStrata(item_counts, [2, 7])
    for users in (slice(0, 1), slice(1, 12), slice(12, 30)):
        part = csr_array(targets[users])
        strata.update(ranked[users], find_hits(ranked[users], part), part)
    table = strata.table()
    bucket = popularity_buckets(item_counts)
    assert table["k"].tolist() == [2] * 5 + [7] * 5
    assert table["interactions"].tolist() == ["0-20%", "20-40%", "40-60%", "60-80%", "80-100%"] * 2
    assert table["n_items"].tolist() == np.bincount(bucket, minlength=5).tolist() * 2
    for row in table.itertuples():
        stratum = bucket == row.Index % 5
        owned = targets[:, stratum].sum(axis=1)
        shown = np.array([[item in set(r[: row.k]) for item in range(16)] for r in ranked])
        found = (shown & targets)[:, stratum].sum(axis=1)
        assert row.n_targets == owned.sum()
        if not owned.sum():
            assert np.isnan(row.found)
            assert np.isnan(row.stderr)
            continue
        assert row.found == pytest.approx(found.sum() / owned.sum(), abs=1e-14)
        # The linearised error is that of the jackknife up to terms of order 1/users.
        left_out = (found.sum() - found) / (owned.sum() - owned)
        jackknife = np.sqrt(((left_out - left_out.mean()) ** 2).sum() * 29 / 30)
        assert row.stderr == pytest.approx(jackknife, rel=0.15, abs=1e-12)


def test_batches_do_not_matter_to_the_last_bit(batch: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    item_counts, ranked, targets = batch
    tables = []
    for size in (1, 7, 30):
        strata = PopularityStrata(item_counts, [3])
        for start in range(0, 30, size):
            rows, part = ranked[start : start + size], csr_array(targets[start : start + size])
            strata.update(rows, find_hits(rows, part), part)
        tables.append(strata.table())
    pd.testing.assert_frame_equal(tables[0], tables[1], check_exact=True)
    pd.testing.assert_frame_equal(tables[0], tables[2], check_exact=True)
