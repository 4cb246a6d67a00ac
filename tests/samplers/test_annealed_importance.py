from __future__ import annotations

import importlib
import math

import pytest
import torch
from torch import Tensor

from recsys_vae.errors import UserError
from recsys_vae.samplers.annealed_importance import (
    Sandwich,
    annealed_importance,
    annealed_importance_reversed,
    schedule,
)
from recsys_vae.samplers.density import WithGradient
from recsys_vae.samplers.distribution import DiagonalGaussian, FullGaussian
from recsys_vae.samplers.hmc import HMC

float64 = torch.float64


def standard(*shape: int) -> DiagonalGaussian:
    return DiagonalGaussian(torch.zeros(shape, dtype=float64), torch.ones(shape, dtype=float64))


class Unnormalised:
    """A Gaussian target times ``exp(log_normaliser)``, with its gradient, counting what it is asked."""

    def __init__(self, gaussian: FullGaussian, log_normaliser: Tensor) -> None:
        self.gaussian, self.log_normaliser = gaussian, log_normaliser
        self.precision = torch.cholesky_inverse(gaussian.scale_tril)
        self.n_gradients = 0

    def __call__(self, position: Tensor) -> Tensor:
        return self.gaussian.log_density(position) + self.log_normaliser

    def value_and_gradient(self, position: Tensor) -> tuple[Tensor, Tensor]:
        self.n_gradients += 1
        centred = (self.gaussian.mean - position).unsqueeze(-1)
        return self(position), (self.precision @ centred).squeeze(-1)


def gaussian_targets(n_targets: int, latent: int, variance: float = 0.3, seed: int = 0) -> Unnormalised:
    """Correlated, off centre, of several scales; the least variance is ``variance``."""
    generator = torch.Generator().manual_seed(seed)
    factor = (
        0.3 * torch.randn(n_targets, latent, latent, generator=generator, dtype=float64) / math.sqrt(latent)
    )
    covariance = factor @ factor.mT + variance * torch.eye(latent, dtype=float64)
    mean = 0.3 * torch.randn(n_targets, latent, generator=generator, dtype=float64)
    log_normaliser = 30 * torch.randn(n_targets, generator=generator, dtype=float64)
    return Unnormalised(FullGaussian(mean, torch.linalg.cholesky(covariance)), log_normaliser)


def test_normalisers_of_gaussians_in_twenty_dimensions() -> None:
    target = gaussian_targets(50, 20)
    annealed = annealed_importance(
        target, standard(50, 20), n_temperatures=50, n_chains=64, kernel=HMC(n_leapfrog=3.0)
    )
    assert annealed.draws.shape == (64, 50, 20)
    assert annealed.log_weights.shape == (64, 50)
    standardised = (annealed.log_normaliser - target.log_normaliser) / annealed.log_normaliser_error
    assert float(standardised.abs().max()) < 4.5
    assert 0.4 < float(standardised.square().mean()) < 2.0  # neither too small nor too large an error


@pytest.mark.slow
def test_normalisers_of_fifty_gaussians_to_a_hundredth_of_a_nat() -> None:
    target = gaussian_targets(50, 20, variance=0.6)
    kernel = HMC(n_leapfrog=3.0)
    annealed = annealed_importance(target, standard(50, 20), n_temperatures=200, n_chains=128, kernel=kernel)
    deviation = annealed.log_normaliser - target.log_normaliser
    # the error bars are small enough for the claim to be seen to fail
    assert float(annealed.log_normaliser_error.square().sum().sqrt()) / 50 < 0.005
    assert abs(float(deviation.mean())) < 0.01


def test_weights_are_unbiased_with_few_temperatures() -> None:
    # far from the target at the end, so errors in the weights' bookkeeping show; the mean weight does not care
    target = gaussian_targets(1, 3, seed=4)
    annealed = annealed_importance(target, standard(1, 3), n_temperatures=4, n_chains=40_000)
    deviation = annealed.log_normaliser - target.log_normaliser
    assert float(annealed.log_normaliser_error) < 0.02
    assert abs(float(deviation)) < 4.5 * float(annealed.log_normaliser_error)


def test_steps_too_long_to_be_trusted_bias_nothing() -> None:
    # trajectories whose energy goes astray: without the accept step the weights would be wrong
    target = gaussian_targets(1, 3, seed=5)
    kernel = HMC(n_leapfrog=2.0, target_acceptance=0.3)
    annealed = annealed_importance(target, standard(1, 3), n_temperatures=60, n_chains=20_000, kernel=kernel)
    assert float(annealed.acceptance[30:].mean()) < 0.9
    deviation = annealed.log_normaliser - target.log_normaliser
    assert abs(float(deviation)) < 4.5 * float(annealed.log_normaliser_error)
    assert float(annealed.log_normaliser_error) < 0.01


@pytest.mark.parametrize("n_temperatures", [3, 30])
def test_the_truth_lies_between_the_two_directions(n_temperatures) -> None:
    # two chains a problem and direction: gaps are wide, and their means over the problems are bounds
    target = gaussian_targets(200, 10, seed=1)
    exact = target.gaussian.draw(2, torch.Generator().manual_seed(9))
    lower = annealed_importance(target, standard(200, 10), n_temperatures, n_chains=2)
    upper = annealed_importance_reversed(target, standard(200, 10), exact, n_temperatures, seed=1)
    sandwich = Sandwich(lower.log_normaliser, upper.log_normaliser)
    below = target.log_normaliser - sandwich.lower
    above = sandwich.upper - target.log_normaliser
    for gap in (below, above):
        error = float(gap.std()) / math.sqrt(200)
        assert float(gap.mean()) > 4.5 * error
    assert upper.backward
    assert not lower.backward


def test_reversed_weights_are_unbiased_for_the_inverse() -> None:
    target = gaussian_targets(1, 3, seed=4)
    exact = target.gaussian.draw(40_000, torch.Generator().manual_seed(3))
    annealed = annealed_importance_reversed(target, standard(1, 3), exact, n_temperatures=6)
    deviation = annealed.log_normaliser - target.log_normaliser
    assert float(annealed.log_normaliser_error) < 0.03
    assert abs(float(deviation)) < 4.5 * float(annealed.log_normaliser_error)


def test_a_target_that_is_the_initial_law_gives_equal_weights() -> None:
    initial = standard(7, 5)
    log_normaliser = torch.linspace(-10.0, 10.0, 7, dtype=float64)
    annealed = annealed_importance(lambda x: initial.log_density(x) + log_normaliser, initial, 10, 4)
    torch.testing.assert_close(annealed.log_weights, log_normaliser.expand(4, 7), rtol=0.0, atol=1e-10)


def test_one_temperature_is_importance_sampling() -> None:
    target = gaussian_targets(3, 2)
    annealed = annealed_importance(target, standard(3, 2), n_temperatures=1, n_chains=100)
    expected = target(annealed.draws) - standard(3, 2).log_density(annealed.draws)
    torch.testing.assert_close(annealed.log_weights, expected)
    assert annealed.acceptance.shape == (0,)


def test_draws_end_at_the_target() -> None:
    target = gaussian_targets(1, 2, seed=2)
    draws = annealed_importance(target, standard(1, 2), n_temperatures=60, n_chains=1000).draws[:, 0]
    error = target.gaussian.scale_tril[0].square().sum(dim=-1).sqrt() / math.sqrt(1000)
    assert ((draws.mean(dim=0) - target.gaussian.mean[0]).abs() < 6 * error).all()


def test_a_new_temperature_costs_no_evaluation() -> None:
    target = gaussian_targets(2, 3)
    assert isinstance(target, WithGradient)
    kernel = HMC(n_leapfrog=4.0, jitter=0.0)
    annealed_importance(target, standard(2, 3), n_temperatures=10, n_chains=3, kernel=kernel)
    # four a transition, of ten in the pilot run and nine in the other; one more at the start of each
    assert target.n_gradients == 4 * 10 + 1 + 4 * 9 + 1


def test_automatic_gradients_agree_with_the_targets_own() -> None:
    target = gaussian_targets(2, 3)
    own = annealed_importance(target, standard(2, 3), n_temperatures=20, n_chains=3)
    automatic = annealed_importance(target.__call__, standard(2, 3), n_temperatures=20, n_chains=3)
    torch.testing.assert_close(own.log_weights, automatic.log_weights)


def test_schedule() -> None:
    inverse_temperatures = schedule(50)
    assert inverse_temperatures[0] == 0.0
    assert inverse_temperatures[-1] == 1.0
    gaps = inverse_temperatures.diff()
    assert (gaps > 0).all()
    assert float(gaps[25]) > 5 * float(gaps[0])
    torch.testing.assert_close(gaps, gaps.flip(0))


def test_the_same_seed_gives_the_same_result() -> None:
    target = gaussian_targets(2, 3)
    one, again, other = (
        annealed_importance(target, standard(2, 3), 5, 3, seed=seed).log_weights for seed in (1, 1, 2)
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_a_target_on_part_of_the_space() -> None:
    # half-normals: the other half has no weight, and no chain that starts there counts
    def log_density(position: Tensor) -> Tensor:
        return torch.where(position[..., 0] > 0, -0.5 * position[..., 0].square(), -torch.inf)

    annealed = annealed_importance(log_density, standard(1), n_temperatures=10, n_chains=4000)
    assert 0.4 < float((annealed.log_weights == -torch.inf).double().mean()) < 0.6
    deviation = annealed.log_normaliser - 0.5 * math.log(math.pi / 2)
    assert abs(float(deviation)) < 4.5 * float(annealed.log_normaliser_error)


def test_mistakes() -> None:
    target = gaussian_targets(2, 3)
    with pytest.raises(UserError, match="n_temperatures"):
        annealed_importance(target, standard(2, 3), 0)
    with pytest.raises(UserError, match="n_chains"):
        annealed_importance(target, standard(2, 3), 5, 0)
    with pytest.raises(UserError, match="log_density_fn: expected finite values or -inf, came NaN"):
        annealed_importance(lambda x: x[..., 0] * torch.nan, standard(2, 3))
    with pytest.raises(UserError, match="log_density_fn: expected values of shape"):
        annealed_importance(lambda x: x, standard(2, 3))
    with pytest.raises(UserError, match="exact_draws: expected draws from the target"):
        annealed_importance_reversed(
            lambda x: torch.where(x[..., 0] > 0, -x[..., 0], -torch.inf),
            standard(1),
            -torch.ones(3, 1, dtype=float64),
        )


MUTANTS = {
    "weight increments after the move": "late",
    "no accept step": "always",
}


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS.keys())
def test_broken_annealing_is_seen(monkeypatch, mutant) -> None:
    # the package's attribute of that name is the function
    path = importlib.import_module("recsys_vae.samplers.annealed_importance")._Path
    if mutant == "late":
        # the ratio at the position before the last move, as if transitions came first
        real = path.log_ratio
        seen: list[Tensor] = []

        def late(self) -> Tensor:
            seen.append(real(self))
            return seen[-2] if len(seen) > 1 and seen[-2].shape == seen[-1].shape else seen[-1]

        monkeypatch.setattr(path, "log_ratio", late)
        n_temperatures, kernel = 4, None
    else:

        def always(state, moved, log_ratio, generator):
            accepted = torch.ones_like(log_ratio, dtype=torch.bool)
            return moved, log_ratio.clamp(max=0.0).exp(), accepted

        monkeypatch.setattr(importlib.import_module("recsys_vae.samplers.hmc"), "metropolis_accept", always)
        n_temperatures, kernel = 60, HMC(n_leapfrog=2.0, target_acceptance=0.3)
    target = gaussian_targets(1, 3, seed=5)
    annealed = annealed_importance(target, standard(1, 3), n_temperatures, 40_000, kernel=kernel)
    deviation = abs(float(annealed.log_normaliser - target.log_normaliser))
    assert deviation > 10 * float(annealed.log_normaliser_error)
