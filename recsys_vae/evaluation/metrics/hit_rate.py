"""Hit rate at k."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float64, Int64


def hit_rate_at_k(
    hits: Bool[np.ndarray, "users ranks"], n_targets: Int64[np.ndarray, " users"], k: int
) -> Float64[np.ndarray, " users"]:
    """One where at least one target stands among the first k, else 0 (ir_measures: ``Success@k``).

    A user without a target gets NaN. ranx (``hit_rate``) and RecBole (``Hit``) give such a user 0, and agree
    with this elsewhere; what ranx calls ``hits`` is the number of hits.
    """
    return np.where(n_targets > 0, hits[:, :k].any(axis=1), np.nan)
