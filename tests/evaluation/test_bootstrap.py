from __future__ import annotations

import numpy as np
import pytest

from recsys_vae.evaluation import bootstrap
from recsys_vae.evaluation.bootstrap import bootstrap_interval, bootstrap_means


def test_a_mean_is_that_of_drawn_users_and_columns_share_the_draw() -> None:
    values = np.random.default_rng(0).random((5, 1)) @ np.array([[1.0, -2.0]])
    means = bootstrap_means(values, resamples=200, seed=1)
    np.testing.assert_allclose(means[:, 1], -2.0 * means[:, 0], atol=1e-14)
    draws = np.random.default_rng(1).integers(0, 5, (200, 5))
    np.testing.assert_allclose(means, values[draws].mean(axis=1), atol=1e-14)


def test_the_size_of_a_chunk_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).random((13, 3))
    whole = bootstrap_means(values, resamples=50, seed=4)
    monkeypatch.setattr(bootstrap, "_DRAWS_PER_CHUNK", 40)
    np.testing.assert_array_equal(bootstrap_means(values, resamples=50, seed=4), whole)


def test_the_spread_is_that_of_the_mean() -> None:
    values = np.random.default_rng(2).exponential(size=(400, 1))
    means = bootstrap_means(values, resamples=4000, seed=0)
    # Standard error of a standard deviation from 4,000 draws: about 1 / sqrt(8000) = 1.1 %.
    assert means.std() == pytest.approx(values.std() / 20, rel=0.05)
    assert means.mean() == pytest.approx(values.mean(), abs=5 * values.std() / 20 / 4000**0.5)


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(3)
    samples = rng.normal(size=(60, 500))  # 500 experiments with 60 users each, true mean 0
    interval = bootstrap_interval(samples, resamples=600, level=0.9, seed=5)
    covered = ((interval[:, 0] <= 0) & (interval[:, 1] >= 0)).mean()
    # 0.9 less the known shortfall of about 0.015 at 60 users; the standard error of the share is 0.014.
    assert 0.83 <= covered <= 0.94


def test_few_or_no_users() -> None:
    np.testing.assert_array_equal(bootstrap_interval(np.array([[0.25, 3.0]])), [[0.25, 0.25], [3.0, 3.0]])
    assert np.isnan(bootstrap_interval(np.empty((0, 2)))).all()
    assert np.isnan(bootstrap_means(np.empty((0, 2)), resamples=3, seed=0)).all()


@pytest.mark.parametrize("arguments", [{"resamples": 0}, {"level": 0.0}, {"level": 1.0}])
def test_refuses_senseless_settings(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="resamples, level"):
        bootstrap_interval(np.ones((2, 1)), **arguments)
