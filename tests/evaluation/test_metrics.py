"""Every metric against its definition in plain Python, and the laws that any of them must keep."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from recsys_vae.evaluation import METRICS


def slow_ndcg(hits: list[bool], n_targets: int, k: int) -> float:
    gain = sum(1.0 / math.log2(rank + 1) for rank, hit in enumerate(hits[:k], start=1) if hit)
    return gain / sum(1.0 / math.log2(rank + 1) for rank in range(1, min(k, n_targets) + 1))


def slow_recall(hits: list[bool], n_targets: int, k: int) -> float:
    return sum(hits[:k]) / min(k, n_targets)


def slow_precision(hits: list[bool], n_targets: int, k: int) -> float:
    return sum(hits[:k]) / k


def slow_average_precision(hits: list[bool], n_targets: int, k: int) -> float:
    total = sum(sum(hits[: rank + 1]) / (rank + 1) for rank in range(min(k, len(hits))) if hits[rank])
    return total / min(k, n_targets)


def slow_reciprocal_rank(hits: list[bool], n_targets: int, k: int) -> float:
    return next((1.0 / rank for rank, hit in enumerate(hits[:k], start=1) if hit), 0.0)


def slow_hit_rate(hits: list[bool], n_targets: int, k: int) -> float:
    return float(any(hits[:k]))


SLOW: dict[str, Callable[[list[bool], int, int], float]] = {
    "average_precision": slow_average_precision,
    "hit_rate": slow_hit_rate,
    "ndcg": slow_ndcg,
    "precision": slow_precision,
    "recall": slow_recall,
    "reciprocal_rank": slow_reciprocal_rank,
}

every_metric = pytest.mark.parametrize("name", sorted(METRICS))


@st.composite
def judged_lists(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    """Hits of lists with 0 to 40 ranks; more targets than hits, exactly as many, or none at all."""
    shape = (draw(st.integers(0, 6)), draw(st.integers(0, 40)))
    hits = draw(arrays(np.bool_, shape))
    missed = draw(arrays(np.int64, shape[0], elements=st.integers(0, 50)))
    return hits, hits.sum(axis=1) + missed, draw(st.integers(1, 60))


def test_every_metric_has_its_oracle() -> None:
    assert set(SLOW) == set(METRICS)


@every_metric
@settings(max_examples=150, deadline=None)
@given(case=judged_lists())
def test_equals_the_definition(name: str, case: tuple[np.ndarray, np.ndarray, int]) -> None:
    hits, n_targets, k = case
    values = METRICS[name](hits, n_targets, k)
    assert values.dtype == np.float64
    expected = [
        SLOW[name](row.tolist(), int(n), k) if n else math.nan for row, n in zip(hits, n_targets, strict=True)
    ]
    np.testing.assert_allclose(values, np.array(expected, dtype=np.float64), rtol=0, atol=1e-12)


@every_metric
@settings(max_examples=50, deadline=None)
@given(case=judged_lists())
def test_ranks_after_k_are_not_looked_at(name: str, case: tuple[np.ndarray, np.ndarray, int]) -> None:
    hits, n_targets, k = case
    cut = np.ascontiguousarray(hits[:, :k])
    np.testing.assert_array_equal(METRICS[name](hits, n_targets, k), METRICS[name](cut, n_targets, k))


@every_metric
@settings(max_examples=100, deadline=None)
@given(case=judged_lists(), data=st.data())
def test_moving_a_target_up_never_lowers_a_metric(
    name: str, case: tuple[np.ndarray, np.ndarray, int], data: st.DataObject
) -> None:
    hits, n_targets, k = case
    if hits.shape[1] < 2:
        return
    up = data.draw(st.integers(0, hits.shape[1] - 2))
    down = data.draw(st.integers(up + 1, hits.shape[1] - 1))
    moved = hits.copy()
    moved[:, up] = hits[:, up] | hits[:, down]
    moved[:, down] = hits[:, up] & hits[:, down]
    before, after = METRICS[name](hits, n_targets, k), METRICS[name](moved, n_targets, k)
    known = n_targets > 0
    assert (after[known] >= before[known] - 1e-15).all()


@pytest.mark.parametrize("name", sorted(set(METRICS) - {"precision"}))
def test_the_ideal_order_scores_one(name: str) -> None:
    n_targets = np.array([1, 2, 10, 60])
    hits = np.arange(50) < n_targets[:, None]
    for k in (1, 2, 9, 10, 11, 50):
        np.testing.assert_allclose(METRICS[name](hits, n_targets, k), 1.0, rtol=0, atol=1e-15)


def test_numbers_worked_by_hand() -> None:
    hits, n_targets = np.array([[False, True, False, True, False]]), np.array([3])
    ideal = 1 + 1 / math.log2(3) + 1 / 2
    expected = {
        "average_precision": (1 / 2 + 2 / 4) / 3,
        "hit_rate": 1.0,
        "ndcg": (1 / math.log2(3) + 1 / math.log2(5)) / ideal,
        "precision": 2 / 5,
        "recall": 2 / 3,
        "reciprocal_rank": 1 / 2,
    }
    assert {name: METRICS[name](hits, n_targets, 5)[0] for name in METRICS} == pytest.approx(
        expected, abs=1e-15
    )


@every_metric
def test_a_user_does_not_change_with_the_batch_to_the_last_bit(name: str) -> None:
    rng = np.random.default_rng(0)
    hits = rng.random((101, 137)) < 0.2
    n_targets = hits.sum(axis=1) + rng.integers(0, 5, 101)
    whole = METRICS[name](hits, n_targets, 100)
    alone = [METRICS[name](hits[i : i + 1], n_targets[i : i + 1], 100)[0] for i in range(101)]
    np.testing.assert_array_equal(whole, alone)


@every_metric
def test_a_k_of_any_size_costs_no_memory(name: str) -> None:
    assert METRICS[name](np.array([[True]]), np.array([1]), 999_999_999)[0] <= 1.0
