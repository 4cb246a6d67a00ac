from __future__ import annotations

import math

import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from recsys_vae.errors import UserError
from recsys_vae.samplers.density_law import DensityLaw
from recsys_vae.samplers.inverse_cdf import DiscreteLaw, inverse_cdf

float64 = torch.float64

QUANTILES = {
    "normal": (torch.special.ndtri, scipy.stats.norm()),
    "exponential": (lambda u: -torch.log1p(-u), scipy.stats.expon()),
    "Cauchy": (lambda u: (math.pi * (u - 0.5)).tan(), scipy.stats.cauchy()),
    "logistic": (torch.logit, scipy.stats.logistic()),
    "Pareto": (lambda u: (1 - u) ** -0.4, scipy.stats.pareto(2.5)),
}
DENSITIES = {
    "normal far away": (lambda x: -0.5 * ((x - 1000) / 0.01) ** 2, {}, scipy.stats.norm(1000, 0.01)),
    "Student": (lambda x: -1.5 * (x**2 / 2).log1p(), {}, scipy.stats.t(2)),
    "gamma": (lambda x: -0.7 * x.log() - x, {"low": 0.0}, scipy.stats.gamma(0.3)),
    "beta": (lambda x: x.log() + 4 * (-x).log1p(), {"low": 0.0, "high": 1.0}, scipy.stats.beta(2, 5)),
    "Gumbel": (lambda x: -x - (-x).exp(), {"low": -700.0}, scipy.stats.gumbel_r()),
}


@pytest.mark.parametrize("name", QUANTILES)
def test_law_of_draws_by_a_quantile_function(name) -> None:
    quantile, law = QUANTILES[name]
    check_law(inverse_cdf(quantile, 20_000, seed=1), law)


@pytest.mark.parametrize("name", DENSITIES)
def test_law_of_draws_by_a_density(name) -> None:
    log_density, interval, law = DENSITIES[name]
    check_law(inverse_cdf(DensityLaw(log_density, **interval), 20_000, seed=2), law)


def check_law(draws: torch.Tensor, law) -> None:
    assert draws.shape == (20_000,)
    assert draws.dtype == float64
    assert scipy.stats.kstest(draws.numpy(), law.cdf).pvalue > 1e-4
    shifted = draws.numpy() + 0.1 * (law.ppf(0.75) - law.ppf(0.25))
    assert scipy.stats.kstest(shifted, law.cdf).pvalue < 1e-4


states = st.integers(1, 12)


@given(hnp.arrays("float64", states, elements=st.floats(-40.0, 40.0)), st.integers(0, 11))
@settings(deadline=None)
def test_quantiles_of_states(log_weights, zero) -> None:
    weights = torch.from_numpy(log_weights)
    if len(weights) > 1:
        weights[zero % len(weights)] = -torch.inf
    law = DiscreteLaw(weights)
    u = torch.linspace(0.0, 1.0, 1001, dtype=float64)
    drawn = law.quantile(u)
    assert (drawn.diff() >= 0).all()
    assert (weights[drawn] > -torch.inf).all()
    cdf = weights.softmax(dim=0).cumsum(dim=0)
    assert (cdf[drawn] >= u - 1e-12).all()
    below = torch.where(drawn > 0, cdf[(drawn - 1).clamp(min=0)], 0.0)
    assert (below <= u + 1e-12).all()


def test_law_of_states_in_a_batch() -> None:
    generator = torch.Generator().manual_seed(0)
    log_weights = 2.0 * torch.randn(3, 4, 9, generator=generator)
    log_weights[1, 2, :5] = -torch.inf
    draws = inverse_cdf(DiscreteLaw(log_weights), 20_000, seed=3)
    assert draws.shape == (20_000, 3, 4)
    counts = torch.stack([(draws == state).sum(dim=0) for state in range(9)], dim=-1)
    expected = 20_000 * log_weights.double().softmax(dim=-1)
    assert (counts[expected == 0] == 0).all()
    kept = expected > 0
    chi_square = ((counts - expected)[kept].square() / expected[kept]).sum()
    freedom = int(kept.sum()) - 12
    assert 1e-4 < scipy.stats.chi2(freedom).sf(float(chi_square)) < 1 - 1e-4
    # members have randomness of their own
    same = DiscreteLaw(torch.zeros(2, 1000))
    pair = inverse_cdf(same, 1000)
    assert int((pair[:, 0] == pair[:, 1]).sum()) < 12


def test_many_states_in_float32_keep_their_weight() -> None:
    # cumulative sums in float32 would give the last states nothing
    draws = inverse_cdf(DiscreteLaw(torch.zeros(2_000_000)), 100_000)
    assert scipy.stats.kstest(draws.double().numpy(), scipy.stats.randint(0, 2_000_000).cdf).pvalue > 1e-4
    # float32 uniforms would only ever reach every 2nd state or so
    assert int((draws % 2).sum()) == pytest.approx(50_000, abs=4.5 * math.sqrt(25_000))


def test_randomness() -> None:
    one = inverse_cdf(torch.logit, 5, seed=7)
    assert torch.equal(one, inverse_cdf(torch.logit, 5, seed=7))
    assert not torch.equal(one, inverse_cdf(torch.logit, 5))
    given = inverse_cdf(torch.logit, 5, seed=7, generator=torch.Generator().manual_seed(1))
    assert torch.equal(given, inverse_cdf(torch.logit, 5, generator=torch.Generator().manual_seed(1)))
    assert not torch.equal(one, given)


def test_mistakes() -> None:
    with pytest.raises(UserError, match="n_draws"):
        inverse_cdf(torch.logit, 0)
    with pytest.raises(UserError, match=r"law: expected one finite quantile .* came inf at u = 0\.9"):
        inverse_cdf(lambda u: torch.where(u > 0.9, torch.inf, u), 100)
    with pytest.raises(UserError, match=r"law: expected one finite quantile .* came shape \(100, 1\)"):
        inverse_cdf(lambda u: u.unsqueeze(-1), 100)
    with pytest.raises(UserError, match=r"log_weights: .* came -inf as the largest of member \(1,\)"):
        DiscreteLaw(torch.tensor([[0.0, 1.0], [-torch.inf, -torch.inf]]))
    with pytest.raises(UserError, match=r"log_weights: .* came nan"):
        DiscreteLaw(torch.tensor([0.0, torch.nan]))
