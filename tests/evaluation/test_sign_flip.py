from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from recsys_vae.evaluation import sign_flip
from recsys_vae.evaluation.sign_flip import sign_flip_p_values


@pytest.mark.parametrize("n_users", [1, 2, 5, 10])
def test_few_users_are_enumerated(n_users: int) -> None:
    differences = np.random.default_rng(n_users).integers(-3, 5, (n_users, 3)) / 7
    signs = np.array(list(product([1, -1], repeat=n_users)))
    expected = (np.abs(signs @ differences) >= np.abs(differences.sum(axis=0)) - 1e-9).mean(axis=0)
    np.testing.assert_array_equal(sign_flip_p_values(differences, permutations=1024), expected)


def test_random_patterns_approach_the_enumeration() -> None:
    differences = np.random.default_rng(0).normal(0.4, 1, (12, 4))
    exact = sign_flip_p_values(differences, permutations=4096)
    sampled = sign_flip_p_values(differences, permutations=4095)
    assert (exact != sampled).any()
    assert (np.abs(exact - sampled) < 5 * np.sqrt(exact * (1 - exact) / 4095) + 1 / 4096).all()


def test_agrees_with_the_t_test_for_many_normal_users() -> None:
    differences = np.random.default_rng(1).normal(0.08, 1, (700, 3))
    p_values = sign_flip_p_values(differences, permutations=20_000)
    np.testing.assert_allclose(p_values, stats.ttest_1samp(differences, 0).pvalue, atol=0.02)


def test_is_uniform_under_the_null_hypothesis() -> None:
    rng = np.random.default_rng(2)
    differences = rng.exponential(size=(40, 1000)) * rng.choice(
        [-1.0, 1.0], (40, 1000)
    )  # symmetric, heavy tails
    p_values = sign_flip_p_values(differences, permutations=999)
    assert stats.kstest(p_values, "uniform").pvalue > 0.01
    for level in (0.01, 0.05, 0.2):  # within 4 standard errors of the level it promises
        assert abs((p_values <= level).mean() - level) < 4 * np.sqrt(level * (1 - level) / 1000)


def test_is_two_sided_and_never_zero() -> None:
    differences = np.random.default_rng(3).normal(5, 1, (50, 1))
    both = sign_flip_p_values(np.hstack([differences, -differences]), permutations=99)
    np.testing.assert_array_equal(both, [0.01, 0.01])


def test_no_difference_and_no_users() -> None:
    assert sign_flip_p_values(np.zeros((30, 1)))[0] == 1.0
    assert np.isnan(sign_flip_p_values(np.empty((0, 2)))).all()
    with pytest.raises(ValueError, match="permutations: expected at least 1, got 0"):
        sign_flip_p_values(np.zeros((3, 1)), permutations=0)


def test_rounding_does_not_hide_a_tie() -> None:
    # 0.1 + 0.2 + 0.3 depends on the order of summation; the pattern of no flips must count as extreme.
    assert sign_flip_p_values(np.array([[0.1], [0.2], [0.3]]), permutations=8)[0] == 0.25


def test_seeds_and_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    differences = np.random.default_rng(4).normal(0.1, 1, (64, 2))
    first = sign_flip_p_values(differences, permutations=500, seed=1)
    np.testing.assert_array_equal(first, sign_flip_p_values(differences, permutations=500, seed=1))
    assert (first != sign_flip_p_values(differences, permutations=500, seed=2)).any()
    monkeypatch.setattr(sign_flip, "_SIGNS_PER_CHUNK", 64 * 33)
    np.testing.assert_array_equal(first, sign_flip_p_values(differences, permutations=500, seed=1))
