"""Laws against SciPy's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from recsys_vae.estimation import (
    Beta,
    BetaBinomial,
    Gamma,
    InverseGamma,
    NegativeBinomial,
    StudentT,
)


def t(*values):
    return torch.tensor(values, dtype=torch.float64)


A, B, C = t(0.7, 2.5, 6.0), t(1.3, 0.4, 2.0), t(0.5, 3.0, 1.2)
a, b, c = A.numpy(), B.numpy(), C.numpy()
CONTINUOUS = {
    "student": (StudentT(A, B, C), stats.t(a, b, c)),
    "gamma": (Gamma(A, B), stats.gamma(a, scale=1 / b)),
    "inverse gamma": (InverseGamma(A, B), stats.invgamma(a, scale=b)),
    "beta": (Beta(A, B), stats.beta(a, b)),
}
N = t(4.0, 9.0, 20.0)
DISCRETE = {
    "beta binomial": (BetaBinomial(N, A, B), stats.betabinom(N.numpy(), a, b)),
    "negative binomial": (NegativeBinomial(A, B, C), stats.nbinom(a, b / (b + c))),
}


@pytest.mark.parametrize("name", CONTINUOUS)
def test_densities_and_quantiles(name) -> None:
    law, oracle = CONTINUOUS[name]
    for probability in (0.02, 0.3, 0.5, 0.9, 0.999):
        value = law.quantile(probability)
        np.testing.assert_allclose(value.numpy(), oracle.ppf(probability), rtol=1e-8)
        np.testing.assert_allclose(law.cdf(value).numpy(), probability, rtol=1e-8)
        np.testing.assert_allclose(
            law.log_prob(value).numpy(), oracle.logpdf(value.numpy()), rtol=1e-9, atol=1e-9
        )
    low, high = law.interval(0.8)
    np.testing.assert_allclose(low.numpy(), oracle.ppf(0.1), rtol=1e-8)
    np.testing.assert_allclose(high.numpy(), oracle.ppf(0.9), rtol=1e-8)


@pytest.mark.parametrize("name", ["gamma", "inverse gamma", "beta"])
def test_nothing_below_zero(name) -> None:
    assert torch.isneginf(CONTINUOUS[name][0].log_prob(-1.0)).all()
    assert (CONTINUOUS[name][0].cdf(-1.0) == 0).all()


@pytest.mark.parametrize("name", DISCRETE)
def test_probabilities(name) -> None:
    law, oracle = DISCRETE[name]
    for k in (0, 1, 4, 9):
        np.testing.assert_allclose(law.log_prob(k).numpy(), oracle.logpmf(k), rtol=1e-9, atol=1e-9)
    assert torch.isneginf(law.log_prob(1.5)).all()
    assert torch.isneginf(law.log_prob(-1)).all()


@pytest.mark.parametrize("name", [*CONTINUOUS, *DISCRETE])
def test_moments(name) -> None:
    law, oracle = (CONTINUOUS | DISCRETE)[name]
    mean, variance = oracle.mean(), oracle.var()
    # SciPy says inf or NaN where there is no moment, and so do we; which of them is a matter of taste.
    np.testing.assert_allclose(law.mean.numpy()[np.isfinite(mean)], mean[np.isfinite(mean)], rtol=1e-9)
    np.testing.assert_allclose(
        law.variance.numpy()[np.isfinite(variance)], variance[np.isfinite(variance)], rtol=1e-9
    )
    assert not np.isfinite(law.mean.numpy()[~np.isfinite(mean)]).any()
    assert not np.isfinite(law.variance.numpy()[~np.isfinite(variance)]).any()


@pytest.mark.parametrize("name", [*CONTINUOUS, *DISCRETE])
def test_draws_follow_from_the_seed_and_have_the_shape_asked_for(name) -> None:
    law = (CONTINUOUS | DISCRETE)[name][0]
    assert law.sample((2, 5), torch.Generator().manual_seed(1)).shape == (2, 5, 3)
    assert law.sample(generator=torch.Generator().manual_seed(1)).shape == (3,)
    first, again = (law.sample(9, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, again)
