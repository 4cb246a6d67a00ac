"""Small made-up histories."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array


def random_histories(
    n_users: int = 12, n_items: int = 30, density: float = 0.2, seed: int = 0, empty_row: bool = True
) -> csr_array:
    """A binary matrix in canonical form; by default its first user has no items."""
    rng = np.random.default_rng(seed)
    dense = (rng.random((n_users, n_items)) < density).astype(np.float32)
    if empty_row:
        dense[0] = 0.0
    return csr_array(dense)


def varied_histories(n_users: int = 150, n_items: int = 20, seed: int = 0) -> csr_array:
    """Items of different popularity, in two groups of users, with hardly a tie between pairs of items."""
    rng = np.random.default_rng(seed)
    users, items = np.arange(n_users)[:, None], np.arange(n_items)
    share = rng.uniform(0.1, 0.5, n_items) * np.where(users % 2 == items % 2, 1.5, 0.5)
    return csr_array((rng.random((n_users, n_items)) < share).astype(np.float32))


def checkerboard(n_users: int = 60, n_items: int = 20) -> csr_array:
    """Even users like even items, odd users like odd items; each misses the item of its own number."""
    users, items = np.indices((n_users, n_items))
    liked = (users % 2 == items % 2) & (items != users % n_items)
    return csr_array(liked.astype(np.float32))
