"""NDCG@100, recall@20 and recall@50 in NumPy: a second opinion on scores, whoever made them."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

NDCG_AT = 100
RECALL_AT = (20, 50)


def ranking_metrics(scores: np.ndarray, history: sp.csr_array, target: sp.csr_array) -> dict[str, np.ndarray]:
    """NDCG@100, recall@20 and recall@50 of every user, from ``scores`` ``(users, items)``.

    Items of the history are not ranked; ties go to the lower index. Gains are binary, the ideal list and the
    denominator of recall are truncated at min(k, targets). A user without a target gets NaN.
    """
    seen, wanted = history.toarray() > 0, target.toarray() > 0
    order = np.argsort(np.where(seen, np.inf, -scores), axis=1, kind="stable")[:, : max(NDCG_AT, *RECALL_AT)]
    hits = np.take_along_axis(wanted & ~seen, order, axis=1).astype(np.float64)
    n_wanted = wanted.sum(axis=1)
    discount = 1.0 / np.log2(np.arange(2, hits.shape[1] + 2))
    ideal = np.concatenate([[np.nan], np.cumsum(discount)])[np.minimum(n_wanted, min(NDCG_AT, hits.shape[1]))]
    metrics = {f"ndcg@{NDCG_AT}": (hits * discount)[:, :NDCG_AT].sum(axis=1) / ideal}
    for k in RECALL_AT:
        possible = np.where(n_wanted > 0, np.minimum(n_wanted, k), np.nan)
        metrics[f"recall@{k}"] = hits[:, :k].sum(axis=1) / possible
    return metrics


def summary(per_user: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Mean and standard error over the users that have a target."""
    table = {}
    for name, values in per_user.items():
        known = values[~np.isnan(values)]
        table[name] = {
            "mean": float(known.mean()),
            "stderr": float(known.std(ddof=1) / np.sqrt(known.size)),
            "n_users": int(known.size),
        }
    return table
