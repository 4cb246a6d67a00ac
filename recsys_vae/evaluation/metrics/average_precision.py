"""Average precision at k; its mean over users is MAP."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float64, Int64


def average_precision_at_k(
    hits: Bool[np.ndarray, "users ranks"], n_targets: Int64[np.ndarray, " users"], k: int
) -> Float64[np.ndarray, " users"]:
    """Mean, over the targets that could stand among the first k, of the precision at their ranks.

    With ``P(i)`` the share of targets among the first i: sum of ``P(i)`` over the ranks ``i <= k`` of
    targets, divided by ``min(k, n_targets)``, as RecBole (``MAP``) does, so that 1 can be reached. ranx
    (``map@k``) and ir_measures (``AP@k``) divide by ``n_targets``: theirs is ours times ``min(k, n_targets)
    / n_targets``. A user without a target gets NaN (ranx and RecBole: 0).
    """
    found = hits[:, :k]
    precision = np.cumsum(found, axis=1) / np.arange(1, found.shape[1] + 1)
    reachable = np.where(n_targets > 0, np.minimum(k, n_targets), np.nan)
    return np.asarray((precision * found).sum(axis=1) / reachable)
