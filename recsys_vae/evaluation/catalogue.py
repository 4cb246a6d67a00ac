"""Beyond accuracy: how much of the catalogue the lists use, and how popular what they show is."""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Int64, Num


def cumulative_counts(
    labels: Int64[np.ndarray, " events"], ranks: Int64[np.ndarray, " events"], ks: list[int], n_labels: int
) -> Int64[np.ndarray, "cutoffs labels"]:
    """How many events of each label have a rank (from 0) below each of the ascending ``ks``."""
    first_within = np.searchsorted(ks, ranks, side="right")
    counts = np.bincount(first_within * n_labels + labels, minlength=(len(ks) + 1) * n_labels)
    return np.cumsum(counts.reshape(-1, n_labels)[: len(ks)], axis=0)


def catalogue_table(
    recommended: Int64[np.ndarray, "cutoffs items"], ks: list[int], item_counts: Num[np.ndarray, " items"]
) -> pd.DataFrame:
    """One row a cut-off k, from how often each item stands among the first k of any list.

    - ``coverage``: share of the catalogue's items that stand in at least one list.
    - ``popularity``: mean over the recommendations of the item's number of training interactions.
    - ``novelty``: mean self-information of the recommendations in bits, ``-log2(c / sum of c)`` with c the
      item's number of training interactions (Zhou et al. 2010; they divide by the number of users). An item
      without any counts as having one.
    - ``gini``: Gini coefficient of the recommendation counts over the whole catalogue: 0 when all items are
      recommended equally often, towards 1 when all lists show the same few.

    NaN where nothing was recommended, except coverage, which is 0.
    """
    n_items = recommended.shape[1]
    total = recommended.sum(axis=1)
    shown = np.where(total > 0, total, np.nan)
    information = -np.log2(np.maximum(item_counts, 1) / max(1, item_counts.sum()))
    place = 2.0 * np.arange(1, n_items + 1) - n_items - 1
    return pd.DataFrame(
        {
            "k": ks,
            "coverage": (recommended > 0).mean(axis=1),
            "popularity": (recommended * item_counts).sum(axis=1) / shown,
            "novelty": (recommended * information).sum(axis=1) / shown,
            "gini": (np.sort(recommended, axis=1) * place).sum(axis=1) / (n_items * shown),
        }
    )
