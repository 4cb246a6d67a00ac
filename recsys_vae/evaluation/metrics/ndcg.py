"""Normalised discounted cumulative gain at k."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float64, Int64


def ndcg_at_k(
    hits: Bool[np.ndarray, "users ranks"], n_targets: Int64[np.ndarray, " users"], k: int
) -> Float64[np.ndarray, " users"]:
    """Discounted gain of the list, as a share of the best that any list of k could have.

    Gains are binary and rank i (from 1) is discounted by ``1 / log2(i + 1)`` (Järvelin & Kekäläinen 2002);
    the ideal list has ``min(k, n_targets)`` targets in front, as in Liang et al. 2018 (arXiv:1802.05814).
    ranx, ir_measures (``nDCG@k``) and RecBole agree, except that a user without a target gets NaN here, 0
    there. ranx (``ndcg_burges``) and others also offer gains of ``2^relevance - 1``, the same for binary
    relevance.
    """
    found = hits[:, :k]
    longest = max(found.shape[1], int(min(k, n_targets.max(initial=0))))
    discount = 1.0 / np.log2(np.arange(2, longest + 2))
    ideal = np.concatenate([[np.nan], np.cumsum(discount)])[np.minimum(k, n_targets)]
    return np.asarray(np.where(found, discount[: found.shape[1]], 0.0).sum(axis=1) / ideal)
