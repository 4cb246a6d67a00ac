"""The fitted prior is where the evidence is highest, found once more with SciPy's laws and another search."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import optimize, stats

from recsys_vae.errors import UserError
from recsys_vae.estimation import (
    BernoulliStatistics,
    GammaPoisson,
    GaussianStatistics,
    NormalInverseGamma,
    PoissonStatistics,
    fit_beta_bernoulli,
    fit_gamma_poisson,
    fit_normal_inverse_gamma,
)


def search(negative, start):
    return optimize.minimize(
        negative, start, method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-9, "maxiter": 4000}
    )


def made_up_groups(n_groups, seed):
    rng = np.random.default_rng(seed)
    variance = stats.invgamma.rvs(4.0, scale=3.0, size=n_groups, random_state=rng)
    mean = rng.normal(3.5, np.sqrt(variance / 2.0))
    sizes = rng.integers(1, 12, n_groups)
    labels = np.repeat(np.arange(n_groups), sizes)
    return rng.normal(mean[labels], np.sqrt(variance)[labels]), labels


def test_normal_inverse_gamma_by_another_search() -> None:
    x, labels = made_up_groups(20, seed=0)
    fitted = fit_normal_inverse_gamma(GaussianStatistics.of_groups(x, labels, 20))
    groups = [x[labels == g] for g in range(20)]

    def negative(free):
        alpha, beta, gamma = np.exp(free[:3])
        total = 0.0
        for group in groups:  # a group's observations are jointly t
            n = len(group)
            shape = beta / alpha * (np.eye(n) + 1.0 / gamma)
            total -= stats.multivariate_t.logpdf(group, np.full(n, free[3]), shape, df=2 * alpha)
        return total

    found = search(negative, [1.0, 1.0, 0.0, 3.0])
    assert fitted.log_evidence == pytest.approx(-found.fun, abs=1e-5)
    prior = fitted.prior
    logs = [float(v.log()) for v in (prior.alpha, prior.beta, prior.gamma)]
    assert [*logs, float(prior.delta)] == pytest.approx(found.x.tolist(), abs=2e-3)
    assert not fitted.at_bound


def test_normal_inverse_gamma_recovers_what_made_the_data() -> None:
    x, labels = made_up_groups(3000, seed=1)
    fitted = fit_normal_inverse_gamma(
        GaussianStatistics.of_groups(x, labels, 3001)
    ).prior  # one group is empty
    # Spread of these over a few seeds: 0.3, 0.3, 0.07, 0.03.
    assert float(fitted.alpha) == pytest.approx(4.0, abs=1.2)
    assert float(fitted.beta) == pytest.approx(3.0, abs=1.2)
    assert float(fitted.gamma) == pytest.approx(2.0, abs=0.3)
    assert float(fitted.delta) == pytest.approx(3.5, abs=0.1)


def test_beta_bernoulli_by_another_search() -> None:
    rng = np.random.default_rng(2)
    trials = rng.integers(1, 30, 60)
    successes = rng.binomial(trials, rng.beta(1.5, 4.0, 60))
    fitted = fit_beta_bernoulli(BernoulliStatistics.of_binomial(trials, successes))
    found = search(lambda f: -stats.betabinom.logpmf(successes, trials, *np.exp(f)).sum(), [0.0, 0.0])
    assert fitted.log_evidence == pytest.approx(-found.fun, abs=1e-6)
    assert [float(fitted.prior.alpha), float(fitted.prior.beta)] == pytest.approx(np.exp(found.x), rel=1e-3)


def test_gamma_poisson_by_another_search() -> None:
    rng = np.random.default_rng(3)
    exposure = rng.uniform(0.5, 4.0, 80)
    counts = rng.poisson(exposure * rng.gamma(2.0, 1.5, 80))
    statistics = PoissonStatistics.of(counts[:, None], exposure[:, None])
    fitted = fit_gamma_poisson(statistics)

    def negative(free):
        shape, rate = np.exp(free)
        return -stats.nbinom.logpmf(counts, shape, rate / (rate + exposure)).sum()

    found = search(negative, [0.0, 0.0])
    assert fitted.log_evidence == pytest.approx(-found.fun, abs=1e-6)
    assert [float(fitted.prior.shape), float(fitted.prior.rate)] == pytest.approx(np.exp(found.x), rel=1e-3)


def test_problems_without_a_spread_of_their_own_say_so() -> None:
    # Every problem with the very same counts: under-dispersed, and the prior becomes a point.
    fitted = fit_beta_bernoulli(BernoulliStatistics.of_binomial([10] * 20, [5] * 20))
    assert fitted.at_bound
    assert float(fitted.prior.law.variance) < 1e-4
    poisson = fit_gamma_poisson(PoissonStatistics.of([[3], [3], [3], [3]]))
    assert poisson.at_bound
    assert isinstance(poisson.prior, GammaPoisson)


def test_the_fit_does_not_depend_on_the_unit() -> None:
    x, labels = made_up_groups(200, seed=4)
    one = fit_normal_inverse_gamma(GaussianStatistics.of_groups(x, labels, 200)).prior
    other = fit_normal_inverse_gamma(GaussianStatistics.of_groups(1000.0 * x - 7.0, labels, 200)).prior
    assert isinstance(one, NormalInverseGamma)
    assert float(other.gamma) == pytest.approx(float(one.gamma), rel=1e-4)
    assert float(other.alpha) == pytest.approx(float(one.alpha), rel=1e-4)
    assert float(other.delta) == pytest.approx(1000.0 * float(one.delta) - 7.0, rel=1e-6)


@pytest.mark.parametrize(
    "fit",
    [
        lambda: fit_normal_inverse_gamma(GaussianStatistics.of(np.ones((1, 5)))),
        lambda: fit_normal_inverse_gamma(GaussianStatistics.of(np.arange(5.0)[:, None])),
        lambda: fit_normal_inverse_gamma(GaussianStatistics.of(np.ones((5, 3)))),
        lambda: fit_beta_bernoulli(BernoulliStatistics.of(torch.ones(4, 3))),
        lambda: fit_gamma_poisson(PoissonStatistics.of(torch.zeros(4, 3))),
    ],
)
def test_data_that_tell_nothing_are_refused(fit) -> None:
    with pytest.raises(UserError, match="statistics"):
        fit()
