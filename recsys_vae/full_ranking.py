"""Evaluation as the paper does it: every item of the catalogue is ranked for every held-out user."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float
from scipy.sparse import csr_array
from torch import Tensor

from recsys_vae.evaluation import Evaluation, EvaluationResult
from recsys_vae.interactions import HeldOut
from recsys_vae.models.base import check_positive
from recsys_vae.ranking import mask_seen, top_k

Score = Callable[[csr_array], Float[Tensor, "users items"]]


def evaluate_full_ranking(
    score: Score,
    held_out: HeldOut,
    metrics: Sequence[str],
    item_counts: np.ndarray,
    batch_size: int = 500,
) -> EvaluationResult:
    """Rank the whole catalogue for each user of ``held_out`` and compare with what they went on to like.

    Users are scored ``batch_size`` at a time, so memory does not grow with their number; the result does not
    depend on it beyond the rounding of the scores. A k beyond the catalogue ranks the whole catalogue.

    Args:
        score: from histories to scores.
        held_out: histories and targets.
        metrics: names such as ``ndcg@100``.
        item_counts: training users of each item, ``(items,)``, for popularity, coverage and novelty.
        batch_size: users scored at a time.
    """
    check_positive("evaluation.batch_size", batch_size)
    evaluation = Evaluation(metrics, item_counts=item_counts)
    for start in range(0, held_out.n_users, batch_size):
        rows = slice(start, start + batch_size)
        history, target = held_out.history[rows], held_out.target[rows]
        ranked = top_k(mask_seen(score(history), history), evaluation.depth)
        evaluation.update(
            ranked.items.cpu().numpy(),
            target,
            history_lengths=np.diff(history.indptr),
            user_ids=held_out.user_ids[rows],
        )
    return evaluation.result()
