"""Which ranks of a list hold a target."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int64
from scipy.sparse import csr_array


def find_hits(
    ranked: Int64[np.ndarray, "users ranks"], targets: csr_array
) -> Bool[np.ndarray, "users ranks"]:
    """Whether each ranked item is one of its user's targets; the filler -1 never is.

    ``targets`` is ``(users, items)`` in canonical form; every stored entry is a target. A table of one byte
    for each user and item of the batch is filled and looked up: several times faster than searching sorted
    keys.
    """
    n_users, n_items = targets.shape
    rows = np.repeat(np.arange(n_users), np.diff(targets.indptr))
    is_target = np.zeros((n_users, n_items + 1), dtype=np.bool_)  # the last column answers for item -1
    is_target[rows, targets.indices] = True
    return np.take_along_axis(is_target, ranked, axis=1)
