"""EASE of the package against the benchmark's own NumPy version: two programs, one formula."""

from __future__ import annotations

import numpy as np
import numpy_ease
import pytest

from recsys_vae.models import EASE
from tests.made_up_histories import random_histories


@pytest.mark.parametrize("l2", [0.5, 20.0, 500.0])
def test_scores_agree(l2: float) -> None:
    matrix, unseen = random_histories(200, 40, seed=1), random_histories(30, 40, seed=2)
    scores = EASE(40, l2=l2).fit(matrix).score(unseen).numpy()
    np.testing.assert_allclose(scores, numpy_ease.ease_scores(matrix, unseen, l2), rtol=1e-5, atol=1e-6)
