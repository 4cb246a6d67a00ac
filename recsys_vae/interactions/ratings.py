"""From a table of ratings to interactions: merge repeats, keep what was liked, drop rare items and users."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32
from scipy.sparse import csr_array

from recsys_vae.errors import UserError
from recsys_vae.interactions.matrix import Interactions
from recsys_vae.interactions.ratings_table import RatingsTable

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FilterCounts:
    """What is there after a stage of :func:`filter_ratings`."""

    stage: str
    users: int
    items: int
    interactions: int


@dataclass(frozen=True)
class FilteredRatings:
    """The interactions that remain, and the counts after every stage, first the table as it was read."""

    interactions: Interactions
    counts: tuple[FilterCounts, ...]


@dataclass(frozen=True)
class _Pairs:
    """Distinct (user, item) pairs, sorted by user, then item."""

    users: Int32[np.ndarray, " pairs"]
    items: Int32[np.ndarray, " pairs"]
    ratings: Float32[np.ndarray, " pairs"] | None
    timestamps: Float64[np.ndarray, " pairs"] | None

    def keep(self, mask: Bool[np.ndarray, " pairs"]) -> _Pairs:
        """The pairs that the mask selects."""
        kept = (
            None if values is None else values[mask]
            for values in (self.users, self.items, self.ratings, self.timestamps)
        )
        return _Pairs(*kept)  # type: ignore[arg-type]

    def counts(self, stage: str) -> FilterCounts:
        """Count the distinct users and items, and the pairs."""
        users, items = (np.count_nonzero(np.bincount(codes)) for codes in (self.users, self.items))
        return FilterCounts(stage, int(users), int(items), self.users.size)


def filter_ratings(
    table: RatingsTable,
    *,
    rating_threshold: float | int | None = 4.0,
    min_user_items: int = 5,
    min_item_users: int = 1,
    weights: bool = False,
) -> FilteredRatings:
    """Turn ratings into interactions, in the order of Liang et al. (2018).

    1. Rows that repeat a (user, item) pair become one, with the highest rating and the latest time. Their
       number is logged.
    2. Ratings below ``rating_threshold`` go. ``None`` keeps all; a table without ratings ignores it.
    3. Items with fewer than ``min_item_users`` users go, then users with fewer than ``min_user_items`` items.
       This repeats until both hold, so that the numbers mean what they say. The code of the paper makes one
       pass: the same wherever ``min_item_users=1``, its setting for MovieLens and ours.

    Users and items with nothing left drop out; the ids stay sorted.

    Args:
        table: the ratings.
        rating_threshold: the lowest rating that counts as liked.
        min_user_items: fewest items a user, at least 1.
        min_item_users: fewest users an item, at least 1.
        weights: store the rating as the weight of an interaction in place of 1.

    Raises:
        UserError: a parameter is out of range, the threshold is above every rating, a filter leaves nothing,
            or ``weights`` meets a table without ratings or a rating of 0 or less.
    """
    _check_threshold(rating_threshold)
    _check_count("min_user_items", min_user_items)
    _check_count("min_item_users", min_item_users)
    read = FilterCounts("read", table.user_ids.size, table.item_ids.size, table.n_rows)
    pairs = _merge_repeats(table)
    counts = [read, pairs.counts("repeated pairs merged")]
    n_repeats = table.n_rows - pairs.users.size
    if n_repeats:
        message = "%s: %d rows repeat a (user, item) pair; merged with the highest rating and latest time"
        _log.info(message, table.source, n_repeats)
    if rating_threshold is not None and pairs.ratings is not None:
        pairs = _liked(pairs, rating_threshold)
        counts.append(pairs.counts(f"rating >= {rating_threshold:g}"))
    pairs = _frequent(pairs, min_user_items, min_item_users, counts)
    return FilteredRatings(_interactions(pairs, table, weights), tuple(counts))


def to_interactions(
    table: RatingsTable,
    *,
    rating_threshold: float | int | None = 4.0,
    min_user_items: int = 5,
    min_item_users: int = 1,
    weights: bool = False,
) -> Interactions:
    """:func:`filter_ratings` without the counts."""
    return filter_ratings(
        table,
        rating_threshold=rating_threshold,
        min_user_items=min_user_items,
        min_item_users=min_item_users,
        weights=weights,
    ).interactions


def _check_threshold(threshold: object) -> None:
    is_number = isinstance(threshold, int | float) and not isinstance(threshold, bool)
    if threshold is not None and not (is_number and math.isfinite(threshold)):  # type: ignore[arg-type]
        raise UserError(
            f"filters.rating_threshold={threshold}: expected a finite number, or null to keep every rating"
        )


def _check_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"filters.{name}={value}: expected a whole number of at least 1 (1 keeps all)")


def _merge_repeats(table: RatingsTable) -> _Pairs:
    keys = table.user_codes.astype(np.int64) * max(table.item_ids.size, 1) + table.item_codes
    order = np.argsort(keys)  # need not be stable: neither maximum depends on the order of equal pairs
    keys = keys[order]
    starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]]) if keys.size else np.empty(0, np.int64)
    first = order[starts]
    ratings, timestamps = (
        None if values is None else _largest(values[order], starts)
        for values in (table.ratings, table.timestamps)
    )
    return _Pairs(table.user_codes[first], table.item_codes[first], ratings, timestamps)


def _largest(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    return values if starts.size == values.size else np.maximum.reduceat(values, starts)


def _liked(pairs: _Pairs, threshold: float | int) -> _Pairs:
    assert pairs.ratings is not None
    kept = pairs.keep(pairs.ratings >= threshold)
    if pairs.users.size and not kept.users.size:
        largest = pairs.ratings.max()
        raise UserError(
            f"filters.rating_threshold={threshold:g} is above every rating: the largest is {largest:g}"
        )
    return kept


def _frequent(pairs: _Pairs, least_items: int, least_users: int, counts: list[FilterCounts]) -> _Pairs:
    """Drop rare items, then users with few items, until neither is left."""
    while True:
        before = pairs.users.size
        for name, least in (("min_item_users", least_users), ("min_user_items", least_items)):
            codes = pairs.items if name == "min_item_users" else pairs.users
            frequency = np.bincount(codes)
            kept = pairs.keep(frequency[codes] >= least)
            if not kept.users.size:
                what = "item has" if name == "min_item_users" else "user has"
                most = int(frequency.max(initial=0))
                raise UserError(
                    f"filters.{name}={least} leaves no interactions: no {what} more than {most} by then"
                )
            if least > 1:
                counts.append(kept.counts(f"{name} >= {least}"))
            pairs = kept
        if pairs.users.size == before or least_users == 1:
            return pairs


def _interactions(pairs: _Pairs, table: RatingsTable, weights: bool) -> Interactions:
    users, rows = np.unique(pairs.users, return_inverse=True)
    items, columns = np.unique(pairs.items, return_inverse=True)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows))])
    index_type = np.int32 if rows.size <= np.iinfo(np.int32).max else np.int64
    data = _weights(pairs, table) if weights else np.ones(rows.size, np.float32)
    matrix = csr_array(
        (data, columns.astype(index_type), indptr.astype(index_type)), shape=(users.size, items.size)
    )
    return Interactions(
        matrix=matrix,
        user_ids=table.user_ids[users],
        item_ids=table.item_ids[items],
        timestamps=pairs.timestamps,
        titles=None if table.titles is None else table.titles[items],
    )


def _weights(pairs: _Pairs, table: RatingsTable) -> Float32[np.ndarray, " pairs"]:
    if pairs.ratings is None:
        raise UserError(f"filters.weights=true: {table.source} has no ratings to weigh interactions by")
    smallest = pairs.ratings.min(initial=np.inf)
    if smallest <= 0:
        message = f"expected ratings above 0, the smallest is {smallest:g}; raise filters.rating_threshold"
        raise UserError(f"filters.weights=true: {message}")
    return pairs.ratings
