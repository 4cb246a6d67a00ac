from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array, random_array

from recsys_vae.ranking import mask_seen


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_seen_items_score_minus_infinity_and_no_others_change(dtype: torch.dtype) -> None:
    histories = csr_array(random_array((9, 30), density=0.2, rng=3, format="csr"))
    scores = torch.randn(9, 30, generator=torch.Generator().manual_seed(0)).to(dtype)
    before = scores.clone()
    assert mask_seen(scores, histories) is scores
    seen = torch.from_numpy(histories.toarray() != 0)
    assert seen.any()
    assert (scores[seen] == -torch.inf).all()
    assert torch.equal(scores[~seen], before[~seen])


def test_empty_histories_hide_nothing() -> None:
    scores = torch.ones(2, 3)
    assert torch.equal(mask_seen(scores, csr_array((2, 3), dtype=np.float32)), torch.ones(2, 3))


def test_refuses_histories_of_another_shape() -> None:
    with pytest.raises(ValueError, match=r"histories: expected shape \(2, 3\) like the scores, got \(2, 4\)"):
        mask_seen(torch.ones(2, 3), csr_array((2, 4), dtype=np.float32))
