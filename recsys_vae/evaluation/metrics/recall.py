"""Recall at k."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float64, Int64


def recall_at_k(
    hits: Bool[np.ndarray, "users ranks"], n_targets: Int64[np.ndarray, " users"], k: int
) -> Float64[np.ndarray, " users"]:
    """Share of the targets that stand among the first k, of as many as could stand there.

    Divides by ``min(k, n_targets)``, as Liang et al. 2018 (arXiv:1802.05814, section 4.2) do, so that 1 can
    be reached. ranx, ir_measures (``R@k``), LensKit and RecBole divide by ``n_targets``: theirs is ours
    times ``min(k, n_targets) / n_targets``. A user without a target gets NaN (ranx and RecBole: 0).
    """
    reachable = np.where(n_targets > 0, np.minimum(k, n_targets), np.nan)
    return np.asarray(hits[:, :k].sum(axis=1) / reachable)
