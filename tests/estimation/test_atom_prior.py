"""The nonparametric prior: its certificate of optimality, and posterior means where the prior is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from recsys_vae.errors import UserError
from recsys_vae.estimation import AtomPrior, GaussianStatistics, fit_atom_prior, tweedie_group_means


def two_points(n, seed):
    rng = np.random.default_rng(seed)
    mu = np.where(rng.random(n) < 0.3, -1.0, 2.0)
    variance = rng.choice([0.3, 1.0, 3.0], n)
    return mu, rng.normal(mu, np.sqrt(variance)), variance


def exact_mean(x, variance):
    low = 0.3 * np.exp(-((x + 1.0) ** 2) / (2 * variance))
    high = 0.7 * np.exp(-((x - 2.0) ** 2) / (2 * variance))
    return (2.0 * high - low) / (low + high)


def test_moments_are_those_of_the_discrete_posterior() -> None:
    _, x, variance = two_points(200, seed=0)
    prior = AtomPrior(*torch.tensor([[-1.0, 2.0], [0.3, 0.7]], dtype=torch.float64))
    mean, spread = prior.posterior_moments(x, variance)
    expected = exact_mean(x, variance)
    np.testing.assert_allclose(mean.numpy(), expected, atol=1e-10)
    np.testing.assert_allclose(spread.numpy(), (expected + 1.0) * (2.0 - expected), atol=1e-10)


def test_no_atom_would_raise_the_likelihood_any_more() -> None:
    # Lindsay's certificate: at the maximum mean_i p(x_i | atom) / p(x_i) is at most 1, and 1 where there is weight.
    _, x, variance = two_points(400, seed=1)
    prior = fit_atom_prior(x, variance, n_atoms=40)
    grid = np.linspace(x.min(), x.max(), 40)

    def density(at):
        return np.exp(-((x[:, None] - at) ** 2) / (2 * variance[:, None]))

    marginal = density(prior.atoms.numpy()) @ prior.weights.numpy()
    assert (density(grid) / marginal[:, None]).mean(axis=0).max() < 1.005


def test_posterior_means_come_near_those_under_the_true_prior() -> None:
    mu, x, variance = two_points(2000, seed=2)
    mean, _ = fit_atom_prior(x, variance, n_atoms=60).posterior_moments(x, variance)
    oracle = exact_mean(x, variance)
    risk, best, raw = (np.square(estimate - mu).mean() for estimate in (mean.numpy(), oracle, x))
    assert risk < 1.03 * best
    assert raw > 2.5 * risk


def test_groups_are_observations_with_the_noise_of_their_size() -> None:
    rng = np.random.default_rng(3)
    sizes = rng.integers(1, 9, 300)
    labels = np.repeat(np.arange(300), sizes)
    x = rng.normal(rng.choice([-1.0, 1.5], 300)[labels], 0.8)
    mean, variance = tweedie_group_means(GaussianStatistics.of_groups(x, labels, 301))
    frame = pd.DataFrame({"x": x, "group": labels}).groupby("group")["x"]
    pooled = (frame.var(ddof=1).fillna(0.0) * (frame.count() - 1)).sum() / (len(x) - 300)
    noise = (pooled / frame.count()).to_numpy()
    prior = fit_atom_prior(frame.mean().to_numpy(), noise)
    expected = prior.posterior_moments(frame.mean().to_numpy(), noise)
    torch.testing.assert_close(mean[:300], expected[0])
    torch.testing.assert_close(variance[:300], expected[1])
    assert float(mean[300]) == pytest.approx(float(prior.atoms @ prior.weights))
    with pytest.raises(UserError, match="statistics"):
        tweedie_group_means(GaussianStatistics.of(np.arange(4.0)[:, None]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0, 2.0], 0.0), "variance"),
        (([1.0, 2.0], [1.0, 1.0, 1.0]), "variance"),
        (([1.0, 1.0], 1.0), "x: expected observations that differ"),
        (([[1.0, 2.0]], 1.0), "x: expected a flat list"),
        (([1.0, 2.0], 1.0, 1), "n_atoms"),
    ],
)
def test_mistakes_are_named(arguments, message) -> None:
    with pytest.raises(UserError, match=message):
        fit_atom_prior(*arguments)
