"""The benchmark's own metrics against the definition, item by item in plain Python."""

from __future__ import annotations

import math

import numpy as np
import numpy_metrics
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st


def _by_definition(scores: list[float], history: set[int], target: set[int]) -> dict[str, float]:
    if not target:
        return dict.fromkeys(("ndcg@100", "recall@20", "recall@50"), math.nan)
    ranked = sorted((i for i in range(len(scores)) if i not in history), key=lambda i: (-scores[i], i))
    gain = sum(1 / math.log2(place + 2) for place, i in enumerate(ranked[:100]) if i in target)
    ideal = sum(1 / math.log2(place + 2) for place in range(min(100, len(target))))
    recall = {f"recall@{k}": len(target.intersection(ranked[:k])) / min(k, len(target)) for k in (20, 50)}
    return {"ndcg@100": gain / ideal, **recall}


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), items=st.integers(101, 300), levels=st.sampled_from([3, 50, 10**9]))
def test_metrics_are_their_definition(seed, items, levels):
    """With few score levels almost everything is tied; targets may be none or nearly all items."""
    rng = np.random.default_rng(seed)
    users = 6
    scores = rng.integers(levels, size=(users, items)).astype(np.float32)
    part = rng.random((users, items))
    share = rng.choice([0.0, 0.05, 0.3, 0.9], size=(users, 1))
    target = part < share
    history = part > 0.95
    result = numpy_metrics.ranking_metrics(
        scores, sp.csr_array(history.astype(float)), sp.csr_array(target.astype(float))
    )
    for user in range(users):
        expected = _by_definition(
            scores[user].tolist(), set(np.flatnonzero(history[user])), set(np.flatnonzero(target[user]))
        )
        assert result.keys() == expected.keys()
        for name, value in expected.items():
            assert result[name][user] == pytest.approx(value, abs=1e-12, nan_ok=True)


def test_a_catalogue_smaller_than_k():
    scores = np.array([[3.0, 2.0, 1.0]])
    result = numpy_metrics.ranking_metrics(
        scores, sp.csr_array([[1.0, 0.0, 0.0]]), sp.csr_array([[0.0, 0.0, 1.0]])
    )
    assert result["ndcg@100"][0] == pytest.approx(1 / math.log2(3))
    assert result["recall@20"][0] == 1.0


def test_summary_leaves_out_users_without_a_target():
    table = numpy_metrics.summary({"recall@20": np.array([0.0, 1.0, np.nan])})
    assert table["recall@20"] == {"mean": 0.5, "stderr": pytest.approx(0.5), "n_users": 2}
