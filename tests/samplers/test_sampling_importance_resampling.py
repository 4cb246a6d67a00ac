from __future__ import annotations

import math

import pytest
import scipy.stats
import torch

from recsys_vae.errors import UserError
from recsys_vae.samplers.distribution import DiagonalGaussian
from recsys_vae.samplers.importance import WeightedDraws, importance
from recsys_vae.samplers.sampling_importance_resampling import sampling_importance_resampling

float64 = torch.float64
SCHEMES = ("systematic", "multinomial", "without_replacement")


def weighted_by(log_weights: torch.Tensor) -> WeightedDraws:
    """Draws whose position is their number."""
    number = torch.arange(len(log_weights), dtype=float64).reshape(-1, *(1,) * log_weights.ndim)
    draws = number.expand(*log_weights.shape, 1)
    normalised = log_weights.log_softmax(dim=0)
    return WeightedDraws(draws, normalised, log_weights, torch.zeros(log_weights.shape[1:], dtype=float64))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_law(scheme) -> None:
    # two members with laws of their own, neither that of the proposal
    mean = torch.tensor([[0.5], [-1.0]], dtype=float64)
    deviation = torch.tensor([[0.7], [1.0]], dtype=float64)
    proposal = DiagonalGaussian(torch.zeros(2, 1, dtype=float64), torch.full((2, 1), 2.0, dtype=float64))
    weighted = importance(DiagonalGaussian(mean, deviation).log_density, proposal, 400_000)
    draws = sampling_importance_resampling(weighted, 4000, scheme=scheme)
    assert draws.shape == (4000, 2, 1)
    for member in range(2):
        law = scipy.stats.norm(float(mean[member]), float(deviation[member]))
        assert scipy.stats.kstest(draws[:, member, 0].numpy(), law.cdf).pvalue > 1e-4
        assert scipy.stats.kstest(draws[:, member, 0].numpy() + 0.1, law.cdf).pvalue < 1e-4


def test_systematic_takes_each_draw_its_expected_number_of_times() -> None:
    log_weights = torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=float64)
    draws = sampling_importance_resampling(weighted_by(log_weights), 1000)[..., 0]
    expected = 1000 * log_weights.softmax(dim=0)
    counts = torch.stack([(draws == number).sum(dim=0) for number in range(50)])
    assert float((counts - expected).abs().max()) < 1.0
    # shuffled: neighbours are no more alike than chance has it
    repeats = (draws[1:] == draws[:-1]).sum(dim=0)
    chance = log_weights.softmax(dim=0).square().sum(dim=0) * 999
    assert ((repeats - chance).abs() < 4.5 * chance.sqrt()).all()


def test_multinomial_draws_are_independent() -> None:
    log_weights = torch.randn(50, 200, generator=torch.Generator().manual_seed(0), dtype=float64)
    draws = sampling_importance_resampling(weighted_by(log_weights), 1000, scheme="multinomial")[..., 0]
    expected = 1000 * log_weights.softmax(dim=0)
    counts = torch.stack([(draws == number).sum(dim=0) for number in range(50)])
    chi_square = float(((counts - expected).square() / expected).sum())
    assert 1e-4 < scipy.stats.chi2(49 * 200).sf(chi_square) < 1 - 1e-4


def test_without_replacement_takes_one_after_the_other_by_the_weights_left() -> None:
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=float64)
    many = weights.log().unsqueeze(1).expand(3, 40_000)
    pairs = sampling_importance_resampling(weighted_by(many), 2, scheme="without_replacement")[..., 0]
    assert (pairs[0] != pairs[1]).all()
    for one in range(3):
        for other in {0, 1, 2} - {one}:
            expected = float(weights[one] * weights[other] / (1 - weights[one]))
            share = float(((pairs[0] == one) & (pairs[1] == other)).double().mean())
            assert abs(share - expected) < 4.5 * math.sqrt(expected * (1 - expected) / 40_000)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_draws_of_no_weight_are_not_taken(scheme) -> None:
    log_weights = torch.zeros(1000, dtype=float64)
    log_weights[::2] = -torch.inf
    draws = sampling_importance_resampling(weighted_by(log_weights), 500, scheme=scheme)
    assert (draws % 2 == 1).all()


def test_smoothed_weights_are_the_ones_used() -> None:
    log_weights = torch.zeros(4, dtype=float64)
    weighted = weighted_by(log_weights)
    smoothed = WeightedDraws(
        weighted.draws, torch.tensor([0.0, -torch.inf, -torch.inf, -torch.inf]), log_weights, weighted.k_hat
    )
    assert (sampling_importance_resampling(smoothed, 100) == 0).all()


def test_randomness_and_mistakes() -> None:
    weighted = weighted_by(torch.zeros(100, dtype=float64))
    one = sampling_importance_resampling(weighted, 10, scheme="multinomial", seed=4)
    assert torch.equal(one, sampling_importance_resampling(weighted, 10, scheme="multinomial", seed=4))
    assert not torch.equal(one, sampling_importance_resampling(weighted, 10, scheme="multinomial"))
    with pytest.raises(UserError, match="n_draws"):
        sampling_importance_resampling(weighted, 0)
    few = weighted_by(torch.tensor([[0.0, 0.0], [0.0, -torch.inf]], dtype=float64))
    with pytest.raises(
        UserError, match=r"n_draws: expected at most the 1 draws .* member \(1,\) has, came 2"
    ):
        sampling_importance_resampling(few, 2, scheme="without_replacement")
