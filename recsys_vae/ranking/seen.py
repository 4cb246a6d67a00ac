"""Hiding from a ranking what the user already has."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse import csr_array
from torch import Tensor


def mask_seen(scores: Float[Tensor, "users items"], histories: csr_array) -> Float[Tensor, "users items"]:
    """Set the score of every item in a user's history to -inf, **in place**, and return the same tensor.

    ``histories`` is ``(users, items)``; every stored entry counts as seen, whatever its weight. Not 0 but
    -inf, because scores may be negative and a seen item must never outrank an unseen one.

    Raises ``ValueError`` when the two shapes differ.
    """
    if tuple(scores.shape) != tuple(histories.shape):
        raise ValueError(
            f"histories: expected shape {tuple(scores.shape)} like the scores, got {tuple(histories.shape)}"
        )
    rows = np.repeat(np.arange(histories.shape[0]), np.diff(histories.indptr))
    seen_users = torch.from_numpy(rows).to(scores.device)
    seen_items = torch.from_numpy(histories.indices.astype(np.int64)).to(scores.device)
    scores[seen_users, seen_items] = -torch.inf
    return scores
