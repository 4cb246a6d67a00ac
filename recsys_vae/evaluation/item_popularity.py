"""How many of the targets are found, from the most popular items to the long tail."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int64, Num
from scipy.sparse import csr_array

from recsys_vae.evaluation.catalogue import cumulative_counts

N_BUCKETS = 5


def popularity_buckets(item_counts: Num[np.ndarray, " items"]) -> Int64[np.ndarray, " items"]:
    """Bucket of each item: 0 for the few that make up a fifth of the training interactions, 4 for the tail.

    Fifths of the interactions and not of the items, so that every bucket has about as many targets. An
    item's place is the share of the interactions that belongs to items strictly more popular, so equally
    popular items share a bucket and the order of the items does not matter.
    """
    counts, place = np.unique(-item_counts, return_inverse=True)
    mass = -counts * np.bincount(place)
    above = np.cumsum(mass) - mass
    bucket = np.minimum(above * N_BUCKETS // max(1, mass.sum()), N_BUCKETS - 1).astype(np.int64)
    return np.asarray(bucket[place])


class PopularityStrata:
    """Counts targets and found targets by the popularity of the item; constant memory in users."""

    def __init__(self, item_counts: Num[np.ndarray, " items"], ks: list[int]) -> None:
        """``item_counts`` are the items' training interactions; ``ks`` the cut-offs, ascending."""
        self._bucket = popularity_buckets(item_counts)
        self._ks = ks
        # For each cut-off and bucket, sums over users of targets t, found f, f^2, f t and t^2: integers, so
        # that no order of summation shows.
        self._sums = np.zeros((5, len(ks), N_BUCKETS), dtype=np.int64)

    def update(
        self,
        ranked: Int64[np.ndarray, "users ranks"],
        hits: Bool[np.ndarray, "users ranks"],
        targets: csr_array,
    ) -> None:
        """Add a batch of users."""
        n_users = len(ranked)
        shape = (len(self._ks), n_users, N_BUCKETS)
        rows = np.repeat(np.arange(n_users), np.diff(targets.indptr))
        owned = np.bincount(rows * N_BUCKETS + self._bucket[targets.indices], minlength=n_users * N_BUCKETS)
        owned = np.broadcast_to(owned.reshape(1, n_users, N_BUCKETS), shape)
        users, ranks = np.nonzero(hits)
        label = users * N_BUCKETS + self._bucket[ranked[users, ranks]]
        found = cumulative_counts(label, ranks, self._ks, n_users * N_BUCKETS).reshape(shape)
        for total, term in zip(self._sums, (owned, found, found**2, found * owned, owned**2), strict=True):
            total += term.sum(axis=1)

    def table(self) -> pd.DataFrame:
        """One row a cut-off and bucket, most popular first.

        ``found`` is the number of targets of the bucket that stand among the first k of their user's list,
        over ``n_targets``, pooled over users: recall with the plain denominator (a mean of per-user recalls
        would drop the users without a target in the bucket). ``stderr`` is that of a ratio, with users as
        the sampled units (Cochran 1977, section 2.11). ``interactions`` is the bucket's range of training
        interactions, as shares from the most popular item down.
        """
        targets, found, found_squared, cross, targets_squared = self._sums.astype(np.float64)
        n_items = np.bincount(self._bucket, minlength=N_BUCKETS)
        with np.errstate(invalid="ignore", divide="ignore"):
            recall = found / targets
            residual = found_squared - 2 * recall * cross + recall**2 * targets_squared
            stderr = np.sqrt(np.maximum(residual, 0.0)) / targets
        edges = np.linspace(0, 100, N_BUCKETS + 1).astype(int)
        labels = [f"{low}-{high}%" for low, high in pairwise(edges)]
        return pd.DataFrame(
            {
                "k": np.repeat(self._ks, N_BUCKETS),
                "interactions": labels * len(self._ks),
                "n_items": np.tile(n_items, len(self._ks)),
                "n_targets": self._sums[0].ravel(),
                "found": recall.ravel(),
                "stderr": stderr.ravel(),
            }
        )
