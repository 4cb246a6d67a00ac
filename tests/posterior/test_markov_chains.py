"""Chains against the exact posterior of PPCA with 20 dimensions, and against the prior."""

from __future__ import annotations

import pytest
import torch
from made_up_histories import random_histories
from made_up_models import grouped_histories, ppca, random_vae

from recsys_vae.errors import UserError
from recsys_vae.models import SparseRows
from recsys_vae.posterior import MarkovChains, PosteriorDensity, markov_chains
from recsys_vae.samplers import HMC, MALA, ChEES, EllipticalSlice, RandomWalkMetropolis
from recsys_vae.samplers.diagnostics import mcse_mean


def check_against_ppca(method: MarkovChains, power: float = 1.0) -> None:
    """Every mean and every entry of every covariance within 4.5 Monte Carlo standard errors of the exact one.

    The exact mean is known, so that an entry of the covariance is itself a mean: of products of offsets.
    """
    model, matrix = ppca(rotated=True), grouped_histories(3, seed=1)
    exact = model.exact_posterior(SparseRows.from_csr(matrix), likelihood_power=power)
    result = method.run(model, matrix, power, seed=4)
    assert result.draws is not None
    assert (result.diagnostics.r_hat < 1.1).all()
    assert ((result.mean - exact.mean).abs() < 4.5 * mcse_mean(result.draws)).all(), "wrong moments"
    offset = result.draws - exact.mean
    first, second = torch.tril_indices(20, 20)
    products = offset[..., first] * offset[..., second]
    deviation = (products.mean(dim=(0, 1)) - exact.covariance[first, second]).abs()
    assert (deviation < 4.5 * mcse_mean(products)).all(), "wrong moments"


KERNELS = {
    "hmc": MarkovChains(draws=8000, chains=80),
    "hmc, not whitened": MarkovChains(
        HMC(n_leapfrog=8.0), draws=8000, chains=80, warmup=200, whitening=False
    ),
    "chees": MarkovChains(ChEES(), draws=4000, chains=20, warmup=300),
    "mala": MarkovChains(MALA(), draws=4000, chains=20, warmup=300, thin=4),
    "elliptical slice": MarkovChains(
        EllipticalSlice(), draws=4000, chains=20, warmup=300, thin=8, whitening=False
    ),
}


@pytest.mark.parametrize("name", ["hmc", "hmc, not whitened"])
def test_hmc_has_the_exact_moments(name) -> None:
    check_against_ppca(KERNELS[name])


@pytest.mark.slow
@pytest.mark.parametrize("power", [1.0, 3.0])
@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_has_the_exact_moments(name, power) -> None:
    check_against_ppca(KERNELS[name], power)


def test_the_check_notices_a_prior_left_out(monkeypatch) -> None:
    def without_prior(self, latent):
        value, gradient = self.likelihood.value_and_gradient(latent)
        return self.likelihood_power * value, self.likelihood_power * gradient

    monkeypatch.setattr(PosteriorDensity, "value_and_gradient", without_prior)
    with pytest.raises(AssertionError, match="wrong moments"):
        check_against_ppca(KERNELS["hmc"])


def test_the_check_notices_draws_that_stay_in_whitened_coordinates(monkeypatch) -> None:
    """Such chains mix as well as any, so that only the moments can tell."""
    original = markov_chains.sample
    monkeypatch.setattr(markov_chains, "sample", lambda *given, transform, **named: original(*given, **named))
    with pytest.raises(AssertionError, match="wrong moments"):
        check_against_ppca(KERNELS["hmc"])


@pytest.mark.parametrize("whitening", [True, False])
def test_without_items_the_draws_are_the_priors(whitening) -> None:
    method = MarkovChains(draws=5000, chains=100, whitening=whitening)
    result = method.run(random_vae(), random_histories(3), 5.0, seed=2)
    draws = result.draws[:, :, 0]
    assert (draws.mean(dim=(0, 1)).abs() < 4.5 * mcse_mean(draws)).all()
    squares = draws.square()
    assert ((squares.mean(dim=(0, 1)) - 1.0).abs() < 4.5 * mcse_mean(squares)).all()


def test_what_infer_returns_is_what_run_reports() -> None:
    model, matrix = ppca(), grouped_histories(3, seed=1)
    method = MarkovChains(draws=18, chains=4, warmup=20)  # 5 of each chain: rounded up
    result, inferred = method.run(model, matrix, seed=5), method.infer(model, matrix, seed=5)
    assert inferred.draws.shape == (20, 3, 20)
    assert torch.equal(inferred.draws, torch.cat([result.draws[:, chain] for chain in range(4)]))
    assert torch.equal(inferred.mean, result.mean)
    torch.testing.assert_close(inferred.standard_deviation, inferred.draws.std(dim=0))
    assert inferred.log_weights is None
    told, found = inferred.diagnostics, result.diagnostics
    assert torch.equal(told["r_hat"], found.r_hat.max(dim=-1).values)
    assert torch.equal(told["ess"], found.ess_bulk.min(dim=-1).values)
    assert torch.equal(told["acceptance"], found.acceptance.mean(dim=0))
    assert torch.equal(told["divergences"], found.divergences.sum(dim=0).double())
    assert {values.shape for values in told.values()} == {(3,)}


def test_moments_without_draws_are_those_of_the_draws() -> None:
    model, matrix = ppca(), grouped_histories(3, seed=1)
    method = MarkovChains(draws=80, warmup=20)
    kept, streamed = (method.run(model, matrix, seed=5, keep_draws=keep) for keep in (True, False))
    assert streamed.draws is None
    torch.testing.assert_close(streamed.mean, kept.mean)
    torch.testing.assert_close(streamed.variance, kept.variance)


def test_seeds_and_chains_differ() -> None:
    model, matrix = ppca(), grouped_histories(3, seed=1)
    method = MarkovChains(RandomWalkMetropolis(), draws=16, warmup=5)
    first, second = (method.run(model, matrix, seed=seed).draws for seed in (1, 2))
    assert not torch.equal(first, second)
    assert not torch.equal(first[:, 0], first[:, 1])
    assert torch.equal(first, method.run(model, matrix, seed=1).draws)


def test_progress_tells_of_both_phases() -> None:
    seen = []
    MarkovChains(draws=16, warmup=3).run(
        ppca(), grouped_histories(2), progress=lambda *report: seen.append(report)
    )
    assert seen == [("warm-up", n, 3) for n in (1, 2, 3)] + [("draws", n, 4) for n in (1, 2, 3, 4)]


def test_a_kernel_that_is_none() -> None:
    with pytest.raises(
        UserError, match=r"posterior\.kernel: expected a kernel of recsys_vae\.samplers, came 'hmc'"
    ):
        MarkovChains.__dict__["__post_init__"](_with_kernel("hmc"))


def _with_kernel(kernel: object) -> MarkovChains:
    """As a configuration without type checks would make it."""
    method = object.__new__(MarkovChains)
    object.__setattr__(method, "kernel", kernel)
    return method
