from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_vae.evaluation.holm import holm


def test_numbers_worked_by_hand() -> None:
    # Sorted: 0.01 * 4, 0.02 * 3, 0.03 * 2 (raised to 0.06), 0.5 * 1.
    np.testing.assert_allclose(holm(np.array([0.03, 0.5, 0.01, 0.02])), [0.06, 0.5, 0.04, 0.06], atol=1e-15)
    np.testing.assert_allclose(holm(np.array([0.9, 0.6])), [1.0, 1.0])
    np.testing.assert_allclose(holm(np.array([0.02, np.nan, 0.01])), [0.02, np.nan, 0.02])
    assert holm(np.array([])).shape == (0,)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.floats(0.001, 0.999))
def test_rejects_what_the_step_down_procedure_rejects(values: list[float], alpha: float) -> None:
    p_values = np.array(values)
    rejected = set()
    for step, index in enumerate(np.argsort(p_values, kind="stable")):
        scaled = p_values[index] * (len(values) - step)
        if scaled > alpha:
            break
        rejected.add(int(index))
    assert set(np.flatnonzero(holm(p_values) <= alpha).tolist()) == rejected


@pytest.mark.parametrize("n", [1, 5])
def test_lies_between_the_raw_value_and_bonferroni(n: int) -> None:
    p_values = np.random.default_rng(n).random(n)
    assert (holm(p_values) >= p_values).all()
    assert (holm(p_values) <= np.minimum(1, n * p_values)).all()
