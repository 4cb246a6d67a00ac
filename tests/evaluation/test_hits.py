from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from recsys_vae.evaluation.hits import find_hits


@given(st.integers(0, 5), st.integers(1, 12), st.integers(0, 15), st.integers(0, 2**32))
def test_equals_a_look_up_one_by_one(n_users: int, n_items: int, n_ranks: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    ranked = rng.integers(-1, n_items, (n_users, n_ranks))
    targets = rng.random((n_users, n_items)) < 0.4
    hits = find_hits(ranked, csr_array(targets))
    for user in range(n_users):
        for rank in range(n_ranks):
            item = ranked[user, rank]
            assert hits[user, rank] == (item >= 0 and targets[user, item])
