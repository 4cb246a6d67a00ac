"""Precision at k."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float64, Int64


def precision_at_k(
    hits: Bool[np.ndarray, "users ranks"], n_targets: Int64[np.ndarray, " users"], k: int
) -> Float64[np.ndarray, " users"]:
    """Share of the first k ranks that hold a target: hits / k.

    Divides by k where fewer than k items could be ranked too, as ranx, ir_measures (``P@k``) and RecBole do.
    A user without a target gets NaN (ranx and RecBole: 0).
    """
    ranks = np.where(n_targets > 0, float(k), np.nan)
    return np.asarray(hits[:, :k].sum(axis=1) / ranks)
