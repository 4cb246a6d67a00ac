"""Metrics of ranked lists, one file each. To add one: a file here, and its line in ``METRICS``.

A metric is a pure function of three things: ``hits[user, rank]``, is the item at this rank one of the
user's targets (best rank first); ``n_targets[user]``; and ``k``. It returns one float64 a user, higher is
better, NaN for a user without a target. ``hits`` may have more columns than k, which are not looked at, or
fewer, where a catalogue or a list was exhausted: the missing ranks hold no hit.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float64, Int64

from recsys_vae.evaluation.metrics.average_precision import average_precision_at_k
from recsys_vae.evaluation.metrics.hit_rate import hit_rate_at_k
from recsys_vae.evaluation.metrics.ndcg import ndcg_at_k
from recsys_vae.evaluation.metrics.precision import precision_at_k
from recsys_vae.evaluation.metrics.recall import recall_at_k
from recsys_vae.evaluation.metrics.reciprocal_rank import reciprocal_rank_at_k

MetricFunction = Callable[
    [Bool[np.ndarray, "users ranks"], Int64[np.ndarray, " users"], int], Float64[np.ndarray, " users"]
]

METRICS: dict[str, MetricFunction] = {
    "average_precision": average_precision_at_k,
    "hit_rate": hit_rate_at_k,
    "ndcg": ndcg_at_k,
    "precision": precision_at_k,
    "recall": recall_at_k,
    "reciprocal_rank": reciprocal_rank_at_k,
}

__all__ = [
    "METRICS",
    "MetricFunction",
    "average_precision_at_k",
    "hit_rate_at_k",
    "ndcg_at_k",
    "precision_at_k",
    "recall_at_k",
    "reciprocal_rank_at_k",
]
