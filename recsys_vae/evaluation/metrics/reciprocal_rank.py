"""Reciprocal rank at k; its mean over users is MRR."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float64, Int64


def reciprocal_rank_at_k(
    hits: Bool[np.ndarray, "users ranks"], n_targets: Int64[np.ndarray, " users"], k: int
) -> Float64[np.ndarray, " users"]:
    """``1 / rank`` of the first target among the first k, the best rank being 1; 0 if none is there.

    The same as ``mrr@k`` of ranx, ``RR@k`` of ir_measures and ``MRR`` of RecBole, except for a user without a
    target, who gets NaN here and 0 there.
    """
    found = hits[:, :k]
    if found.shape[1] == 0:
        return np.where(n_targets > 0, 0.0, np.nan)
    reciprocal = found.any(axis=1) / (found.argmax(axis=1) + 1.0)
    return np.where(n_targets > 0, reciprocal, np.nan)
