import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_vae.errors import UserError
from recsys_vae.interactions import RatingsTable, filter_ratings, read_table, to_interactions

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def table_of(rows, titles=None):
    """A table from (user, item, rating or None, time or None) rows."""
    users, user_codes = np.unique([row[0] for row in rows], return_inverse=True)
    items, item_codes = np.unique([row[1] for row in rows], return_inverse=True)
    ratings, times = ([row[column] for row in rows] for column in (2, 3))
    return RatingsTable(
        user_codes=user_codes.astype(np.int32),
        item_codes=item_codes.astype(np.int32),
        user_ids=users.astype(np.int64),
        item_ids=items.astype(np.int64),
        ratings=None if None in ratings else np.array(ratings, np.float32),
        timestamps=None if None in times else np.array(times, np.float64),
        titles=None if titles is None else np.array([titles.get(item) for item in items.tolist()], object),
        genres=None,
        source="made up",
    )


def entries_of(interactions):
    """Interactions as a dictionary from (user id, item id) to (weight, time)."""
    matrix = interactions.matrix.tocoo()
    times = interactions.timestamps
    times = [None] * matrix.nnz if times is None else times.tolist()
    users, items = interactions.user_ids[matrix.row], interactions.item_ids[matrix.col]
    return {
        (user, item): (weight, time)
        for user, item, weight, time in zip(
            users.tolist(), items.tolist(), matrix.data.tolist(), times, strict=True
        )
    }


def slow_filter(rows, threshold, min_user_items, min_item_users):
    """The same in plain Python."""
    pairs = {}
    for user, item, rating, time in rows:
        best, latest = pairs.get((user, item), (rating, time))
        pairs[user, item] = (max(best, rating), max(latest, time))
    pairs = {pair: values for pair, values in pairs.items() if threshold is None or values[0] >= threshold}
    while True:
        before = len(pairs)
        for axis, least in ((1, min_item_users), (0, min_user_items)):
            seen = [pair[axis] for pair in pairs]
            pairs = {pair: values for pair, values in pairs.items() if seen.count(pair[axis]) >= least}
        if len(pairs) == before:
            return pairs


ROW = st.tuples(
    st.integers(0, 6), st.integers(-4, 4), st.sampled_from([1.0, 3.5, 4.0, 5.0]), st.integers(0, 9).map(float)
)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(ROW, min_size=1, max_size=40),
    st.sampled_from([None, 3.5, 4, 5.0]),
    st.integers(1, 3),
    st.integers(1, 3),
    st.booleans(),
)
def test_filters_equal_plain_python(rows, threshold, min_user_items, min_item_users, weights):
    expected = slow_filter(rows, threshold, min_user_items, min_item_users)
    options = {
        "rating_threshold": threshold,
        "min_user_items": min_user_items,
        "min_item_users": min_item_users,
        "weights": weights,
    }
    if not expected:
        with pytest.raises(UserError):
            filter_ratings(table_of(rows), **options)
        return
    filtered = filter_ratings(table_of(rows), **options)
    interactions = filtered.interactions
    assert entries_of(interactions) == {
        pair: (rating if weights else 1.0, time) for pair, (rating, time) in expected.items()
    }
    assert interactions.user_ids.tolist() == sorted({user for user, _ in expected})
    assert interactions.item_ids.tolist() == sorted({item for _, item in expected})
    assert interactions.matrix.dtype == np.float32
    assert interactions.matrix.has_canonical_format
    last = filtered.counts[-1]
    assert (last.users, last.items, last.interactions) == (
        interactions.n_users,
        interactions.n_items,
        len(expected),
    )


@settings(max_examples=50, deadline=None)
@given(st.lists(ROW, min_size=1, max_size=40), st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter(rows, random):
    shuffled = random.sample(rows, len(rows))
    first, second = (
        to_interactions(table_of(order), rating_threshold=None, min_user_items=1)
        for order in (rows, shuffled)
    )
    assert np.array_equal(first.matrix.indices, second.matrix.indices)
    assert np.array_equal(first.matrix.indptr, second.matrix.indptr)
    assert np.array_equal(first.timestamps, second.timestamps)


def test_repeats_are_merged_and_counted_in_the_log(caplog):
    rows = [(1, 5, 2.0, 30.0), (1, 6, 4.0, 1.0), (1, 5, 4.5, 10.0), (1, 5, 1.0, 20.0)]
    with caplog.at_level(logging.INFO, "recsys_vae"):
        interactions = to_interactions(table_of(rows), min_user_items=1, weights=True)
    assert entries_of(interactions) == {(1, 5): (4.5, 30.0), (1, 6): (4.0, 1.0)}
    assert "made up: 2 rows repeat a (user, item) pair" in caplog.text


def test_counts_of_every_stage():
    rows = [(1, 1, 5.0, None), (1, 2, 4.0, None), (2, 1, 4.0, None), (2, 3, 1.0, None), (2, 3, 2.0, None)]
    counts = filter_ratings(table_of(rows), min_user_items=2).counts
    assert [(count.stage, count.users, count.items, count.interactions) for count in counts] == [
        ("read", 2, 3, 5),
        ("repeated pairs merged", 2, 3, 4),
        ("rating >= 4", 2, 2, 3),
        ("min_user_items >= 2", 1, 2, 2),
    ]


def test_filters_hold_together_where_one_pass_would_not_do():
    # Item 9 has two users until user 3 goes, and user 2 has two items until item 9 goes.
    rows = [(3, 9), (2, 9), (2, 1), *((user, item) for user in (4, 5) for item in (1, 2))]
    table = table_of([(user, item, None, None) for user, item in rows])
    interactions = to_interactions(table, min_user_items=2, min_item_users=2)
    assert entries_of(interactions).keys() == {(4, 1), (4, 2), (5, 1), (5, 2)}


def test_titles_follow_the_items_and_a_table_without_ratings_ignores_the_threshold():
    rows = [(1, 30, None, None), (1, 10, None, None), (2, 20, None, None)]
    interactions = to_interactions(table_of(rows, {10: "ten", 20: "twenty"}), min_user_items=2)
    assert interactions.item_ids.tolist() == [10, 30]
    assert interactions.titles.tolist() == ["ten", None]
    assert interactions.timestamps is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rating_threshold": 6}, r"filters\.rating_threshold=6 is above every rating: the largest is 5"),
        ({"rating_threshold": float("nan")}, r"filters\.rating_threshold=nan: expected a finite number"),
        ({"rating_threshold": float("inf")}, r"filters\.rating_threshold=inf: expected a finite number"),
        ({"min_user_items": 0}, r"filters\.min_user_items=0: expected a whole number of at least 1"),
        ({"min_item_users": -2}, r"filters\.min_item_users=-2: expected a whole number of at least 1"),
        ({"min_user_items": 3}, r"filters\.min_user_items=3 leaves no interactions: no user has more than 2"),
        ({"min_item_users": 2}, r"filters\.min_item_users=2 leaves no interactions: no item has more than 1"),
        ({"rating_threshold": None, "min_user_items": 1, "weights": True}, r"weights=true: .* smallest is 0"),
    ],
)
def test_bad_parameters_are_one_line(options, message):
    with pytest.raises(UserError, match=message):
        to_interactions(table_of([(1, 1, 5.0, None), (1, 2, 4.0, None), (2, 3, 0.0, None)]), **options)


def test_weights_need_ratings():
    with pytest.raises(UserError, match="made up has no ratings"):
        to_interactions(table_of([(1, 1, None, None)]), min_user_items=1, weights=True)


@pytest.mark.parametrize(
    ("name", "users", "items", "interactions"),
    [
        ("ml-latest-small", 603, 6_298, 48_562),
        ("ml-100k", 938, 1_447, 55_361),
        ("ml-1m", 6_034, 3_533, 575_272),
        ("goodbooks-10k-v1", 28_975, 9_999, 596_316),
    ],
)
def test_counts_of_public_datasets(name, users, items, interactions):
    path = SHARED / f"{name}.parquet"
    if not path.exists():
        pytest.skip(f"shared/data/{name}.parquet is not beside this checkout")
    result = to_interactions(read_table(path))
    assert (result.n_users, result.n_items, result.matrix.nnz) == (users, items, interactions)
