"""The made-up dataset has the counts it promises, whatever the shape."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
import synthetic_movielens20m as synthetic
from hypothesis import given, settings
from hypothesis import strategies as st


def _table(shape) -> tuple[np.ndarray, np.ndarray]:
    users, items = zip(*synthetic.blocks(shape), strict=True)
    return np.concatenate(users), np.concatenate(items)


@st.composite
def shapes(draw):
    items = draw(st.integers(5, 120))
    users = draw(st.integers(1, 60))
    most = max(5, items // 4) * users
    least = max(items, 5 * users)
    if least > most:
        users = -(-items // max(5, items // 4))
        least, most = max(items, 5 * users), max(5, items // 4) * users
    return synthetic.Shape(
        users=users,
        items=items,
        interactions=draw(st.integers(least, most)),
        seed=draw(st.integers(0, 2**32 - 1)),
        log_normal_sigma=draw(st.sampled_from([0.0, 1.1, 2.0])),
        popularity_exponent=draw(st.sampled_from([0.0, 1.5, 3.0])),
        popularity_shift=draw(st.sampled_from([1.0, 100.0])),
    )


@settings(max_examples=100, deadline=None)
@given(shape=shapes(), block=st.integers(1, 70))
def test_counts_are_exact_for_any_shape(shape, block):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "USERS_AT_ONCE", block)
        user_id, item_id = _table(shape)
    assert user_id.size == item_id.size == shape.interactions
    pairs = list(zip(user_id.tolist(), item_id.tolist(), strict=True))
    assert len(set(pairs)) == shape.interactions, "a user has an item twice"
    assert pairs == sorted(pairs)
    assert set(item_id.tolist()) == set(range(1, shape.items + 1)), "an item goes unused, or is unknown"
    per_user = np.bincount(user_id, minlength=shape.users + 1)[1:]
    assert per_user.size == shape.users
    assert per_user.min() >= 5
    assert per_user.max() <= shape.most_items


def test_drawing_without_repeats_is_successive_sampling():
    """Two of three items, weights 0.6, 0.3, 0.1: the pairs' probabilities are known in closed form."""
    n = 40_000
    cumulative = np.cumsum([0.6, 0.3, 0.1])
    cumulative /= cumulative[-1]
    keys = synthetic.distinct_items(
        np.full(n, 2), np.empty(0, dtype=np.int64), cumulative, np.random.default_rng(3)
    )
    left_out = 3 - (keys % 3).reshape(n, 2).sum(axis=1)
    weight = np.array([0.6, 0.3, 0.1])
    expected = np.empty(3)
    for out in range(3):
        a, b = (item for item in range(3) if item != out)
        expected[out] = weight[a] * weight[b] * (1 / (1 - weight[a]) + 1 / (1 - weight[b]))
    observed = np.bincount(left_out, minlength=3) / n
    np.testing.assert_array_less(abs(observed - expected), 4.5 * np.sqrt(expected * (1 - expected) / n))


def test_popularity_follows_the_power_law():
    _, item_id = _table(synthetic.Shape(users=20_000, items=2_000, interactions=600_000))
    popularity = np.sort(np.bincount(item_id)[1:])[::-1]
    # Away from the head, where a user cannot take an item twice, the log-log slope is the exponent's.
    rank = np.arange(600, 2_000)
    slope = np.polyfit(np.log(rank + 101.0), np.log(popularity[rank]), 1)[0]
    assert slope == pytest.approx(-1.5, abs=0.1)


def test_activity_is_log_normal():
    shape = synthetic.Shape(users=20_000, items=20_000, interactions=3_000_000)
    counts = synthetic.activity(shape, np.random.default_rng(0))
    low, middle, high = np.log(np.quantile(counts, [0.1, 0.5, 0.9]))
    assert high - middle == pytest.approx(1.2816 * 1.1, abs=0.06)
    assert middle - low == pytest.approx(1.2816 * 1.1, abs=0.06)


def test_a_seed_is_a_table_and_another_seed_another():
    shape = synthetic.Shape(users=50, items=40, interactions=300, seed=4)
    other = synthetic.Shape(users=50, items=40, interactions=300, seed=5)
    first, again, different = _table(shape), _table(shape), _table(other)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, different)


def test_the_file_holds_the_table_and_the_reported_counts_are_its_counts(tmp_path):
    shape = synthetic.Shape(users=300, items=80, interactions=2_500, seed=2)
    target = tmp_path / "made-up.parquet"
    report = synthetic.write(shape, target)
    table = pq.read_table(target)
    assert table.schema.names == ["user_id", "item_id"]
    user_id, item_id = _table(shape)
    np.testing.assert_array_equal(table["user_id"].to_numpy(), user_id)
    np.testing.assert_array_equal(table["item_id"].to_numpy(), item_id)
    assert (report["users"], report["items"], report["interactions"]) == (300, 80, 2_500)
    assert report["most_users_of_an_item"] == np.bincount(item_id).max()
    assert [path.name for path in tmp_path.iterdir()] == ["made-up.parquet"]


def test_the_default_shape_is_movielens_20m():
    shape = synthetic.Shape()
    assert (shape.users, shape.items, shape.interactions) == (136_677, 20_108, 10_000_000)
    counts = synthetic.activity(shape, np.random.default_rng(shape.seed))
    assert counts.sum() == 10_000_000
    assert counts.min() == 5


@pytest.mark.parametrize(
    ("users", "items", "interactions"),
    [(10, 100, 99), (100, 10, 499), (10, 40, 101), (0, 10, 20), (5, 4, 25)],
)
def test_an_impossible_shape_is_refused(users, items, interactions):
    with pytest.raises(ValueError, match="expected"):
        synthetic.Shape(users=users, items=items, interactions=interactions)
