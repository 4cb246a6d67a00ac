"""Judge a ranking that another author's program made, by the metrics that judge ours."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from recsys_vae.errors import UserError
from recsys_vae.evaluation import Evaluation, EvaluationResult
from recsys_vae.interactions import HeldOut

SELECTED_BY = "ndcg@100"
METRICS = (SELECTED_BY, "recall@20", "recall@50")


def judge(path: Path, held_out: HeldOut, item_counts: np.ndarray, name: str) -> EvaluationResult:
    """Read a ranking ``(users, ranks)`` and return the metrics of every user.

    Raises ``UserError`` for one that is not a ranking of what the users have not seen: another shape, a repeated
    item, an item of the history or none of the catalogue, a place left empty before the last.
    """
    ranked = np.load(path)
    n_users, n_items = held_out.history.shape

    def refuse(expected: str, got: str) -> UserError:
        return UserError(f"{name}: {path.name}: expected {expected}, got {got}")

    if ranked.ndim != 2 or len(ranked) != n_users or ranked.dtype != np.int64:
        raise refuse(f"int64 of shape ({n_users}, ranks)", f"{ranked.dtype} of shape {ranked.shape}")
    if ranked.min() < -1 or ranked.max() >= n_items:
        raise refuse(f"items from 0 to {n_items - 1}, or -1", f"{ranked.min()} to {ranked.max()}")
    filled = ranked >= 0
    if (np.diff(filled.astype(np.int8), axis=1) > 0).any():
        raise refuse("-1 after the last item only", "one before an item")
    users = np.repeat(np.arange(n_users), filled.sum(axis=1))
    pairs = users * n_items + ranked[filled]
    if len(np.unique(pairs)) < len(pairs):
        raise refuse("every item once", "one twice for a user")
    seen = (
        np.repeat(np.arange(n_users), np.diff(held_out.history.indptr)) * n_items + held_out.history.indices
    )
    if np.isin(pairs, seen).any():
        raise refuse("items that are not in the history", "one that is")
    evaluation = Evaluation(METRICS, item_counts=item_counts)
    evaluation.update(
        ranked,
        held_out.target,
        history_lengths=np.diff(held_out.history.indptr),
        user_ids=held_out.user_ids,
    )
    return evaluation.result()
