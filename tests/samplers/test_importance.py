from __future__ import annotations

import math

import pytest
import scipy.stats
import torch

from recsys_vae.errors import UserError
from recsys_vae.samplers.distribution import DiagonalGaussian, FullGaussian
from recsys_vae.samplers.importance import importance

float64 = torch.float64


def gaussian(mean: float, deviation: float, latent: int, *batch: int) -> DiagonalGaussian:
    shape = (*batch, latent)
    return DiagonalGaussian(
        torch.full(shape, mean, dtype=float64), torch.full(shape, deviation, dtype=float64)
    )


def unnormalised(target: DiagonalGaussian | FullGaussian, log_normaliser: torch.Tensor | float):
    return lambda position: target.log_density(position) + log_normaliser


def test_an_exact_proposal_has_equal_weights() -> None:
    target = gaussian(0.5, 2.0, 5, 7)
    log_normaliser = torch.linspace(-300.0, 300.0, 7, dtype=float64)
    weighted = importance(unnormalised(target, log_normaliser), target, n_draws=500)
    torch.testing.assert_close(weighted.log_normaliser, log_normaliser, rtol=0.0, atol=1e-10)
    torch.testing.assert_close(weighted.log_weights.exp(), torch.full((500, 7), 1 / 500, dtype=float64))
    torch.testing.assert_close(weighted.effective_sample_size, torch.full((7,), 500.0, dtype=float64))
    assert (weighted.k_hat == -math.inf).all()
    assert float(weighted.log_normaliser_error.max()) < 1e-12


def test_normaliser_mean_and_variance_of_gaussians_are_within_their_error_bars() -> None:
    generator = torch.Generator().manual_seed(5)
    factor = torch.randn(40, 3, 3, generator=generator, dtype=float64) * 0.3
    covariance = factor @ factor.mT + 0.5 * torch.eye(3, dtype=float64)
    target = FullGaussian(
        torch.randn(40, 3, generator=generator, dtype=float64), torch.linalg.cholesky(covariance)
    )
    log_normaliser = torch.randn(40, generator=generator, dtype=float64) * 20
    # a proposal of the right centre, 1.5 times as wide: weights are bounded
    proposal = DiagonalGaussian(target.mean, 1.5 * covariance.diagonal(dim1=-2, dim2=-1).sqrt())
    weighted = importance(unnormalised(target, log_normaliser), proposal, 20_000, seed=2)

    def within(estimate: torch.Tensor, truth: torch.Tensor, error: torch.Tensor) -> None:
        deviation = (estimate - truth) / error
        assert float(deviation.abs().max()) < 4.5
        assert 0.5 < float(deviation.square().mean()) < 1.7  # the error is neither too large nor too small

    within(weighted.log_normaliser, log_normaliser, weighted.log_normaliser_error)
    within(weighted.mean, target.mean, weighted.expectation_error(lambda draws: draws))
    outer = weighted.expectation(
        lambda draws: (draws - target.mean).unsqueeze(-1) * (draws - target.mean).unsqueeze(-2)
    )
    error = weighted.expectation_error(lambda draws: (draws - target.mean).square())
    within(outer.diagonal(dim1=-2, dim2=-1), covariance.diagonal(dim1=-2, dim2=-1), error)
    within(weighted.variance, covariance.diagonal(dim1=-2, dim2=-1), error)


def test_k_hat_tells_a_narrow_proposal_from_a_wide_one() -> None:
    # with a Gaussian proposal of deviation s, the weights' tail has shape 1 - s^2 where s < 1
    target = gaussian(0.0, 1.0, 3, 50)
    narrow = importance(target.log_density, gaussian(0.0, 0.2, 3, 50), 4000)
    wide = importance(target.log_density, gaussian(0.0, 1.5, 3, 50), 4000)
    error = float(narrow.k_hat.std()) / math.sqrt(50)
    assert float(narrow.k_hat.mean()) - 4.5 * error > 0.7
    assert float(wide.k_hat.max()) < 0.3


def test_smoothing_can_be_declined() -> None:
    target, proposal = gaussian(0.0, 1.0, 2, 3), gaussian(0.0, 0.6, 2, 3)
    raw = importance(target.log_density, proposal, pareto_smoothing=False)
    torch.testing.assert_close(raw.log_weights, raw.raw_log_weights.log_softmax(dim=0))
    smoothed = importance(target.log_density, proposal)
    torch.testing.assert_close(raw.k_hat, smoothed.k_hat)
    assert not torch.allclose(raw.log_weights, smoothed.log_weights)


def test_the_same_seed_gives_the_same_draws_and_a_generator_wins() -> None:
    target = gaussian(0.0, 1.0, 2)
    one, again = (importance(target.log_density, target, 10, seed=3).draws for _ in range(2))
    assert torch.equal(one, again)
    given, same = (
        importance(
            target.log_density, target, 10, seed=seed, generator=torch.Generator().manual_seed(3)
        ).draws
        for seed in (3, 4)
    )
    assert torch.equal(given, same)
    assert not torch.equal(given, one)
    assert not torch.equal(one, importance(target.log_density, target, 10).draws)


def test_places_of_no_density_have_no_weight() -> None:
    # a half-normal
    def log_density(position: torch.Tensor) -> torch.Tensor:
        return torch.where(position[..., 0] > 0, -0.5 * position[..., 0] ** 2, -torch.inf)

    weighted = importance(log_density, gaussian(0.0, 1.5, 1), 50_000)
    truth = math.sqrt(2 / math.pi)
    assert abs(float(weighted.mean) - truth) < 4.5 * float(weighted.expectation_error(lambda draws: draws))
    assert abs(float(weighted.log_normaliser) - 0.5 * math.log(math.pi / 2)) < 4.5 * float(
        weighted.log_normaliser_error
    )
    # the logarithm is not a number where there is no weight
    mean_log = float(weighted.expectation(lambda draws: draws.log()))
    assert mean_log == pytest.approx(scipy.stats.halfnorm.expect(math.log), abs=0.03)


def test_float32() -> None:
    target = DiagonalGaussian(torch.zeros(4, 3), torch.ones(4, 3))
    weighted = importance(target.log_density, DiagonalGaussian(torch.zeros(4, 3), torch.full((4, 3), 1.2)))
    assert weighted.log_weights.dtype == weighted.k_hat.dtype == torch.float32
    assert (weighted.log_normaliser.abs() < 4.5 * weighted.log_normaliser_error).all()
    assert (importance(target.log_density, target).k_hat == -math.inf).all()


def test_few_draws_have_no_shape() -> None:
    target = gaussian(0.0, 1.0, 1)
    assert float(importance(target.log_density, gaussian(0.0, 2.0, 1), 20).k_hat) == math.inf
    assert math.isfinite(float(importance(target.log_density, gaussian(0.0, 2.0, 1), 30).k_hat))


def test_mistakes() -> None:
    proposal = gaussian(0.0, 1.0, 2, 3)
    with pytest.raises(UserError, match="n_draws: expected a whole number of at least 4, came 3"):
        importance(proposal.log_density, proposal, 3)
    with pytest.raises(
        UserError, match=r"log_density_fn: expected values of shape \(10, 3\).*came \(10, 3, 1\)"
    ):
        importance(lambda position: position[..., :1], proposal, 10)

    def nan_at_the_right(position: torch.Tensor) -> torch.Tensor:
        return torch.where(position[..., 0] > 0, torch.nan, 0.0)

    draws = importance(proposal.log_density, proposal, 10).draws
    n_bad = int((draws[..., 0] > 0).sum())
    with pytest.raises(UserError, match=f"came NaN or \\+inf at {n_bad} of 30 positions, first nan at \\["):
        importance(nan_at_the_right, proposal, 10)
    with pytest.raises(UserError, match=r"first inf at"):
        importance(lambda position: torch.full(position.shape[:-1], torch.inf), proposal, 10)

    def nowhere_for_the_second(position: torch.Tensor) -> torch.Tensor:
        return torch.tensor([0.0, -torch.inf, 0.0]).expand(position.shape[:-1])

    with pytest.raises(
        UserError, match=r"-inf at all 10 draws for 1 of 3 members of the batch, first index \(1,\)"
    ):
        importance(nowhere_for_the_second, proposal, 10)
    weighted = importance(proposal.log_density, proposal, 10)
    with pytest.raises(UserError, match="function: expected values of shape"):
        weighted.expectation(lambda draws: draws.sum(dim=0))
