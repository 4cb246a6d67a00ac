from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import scipy.stats
import torch

from recsys_vae.errors import UserError
from recsys_vae.samplers.distribution import DiagonalGaussian
from recsys_vae.samplers.rejection import rejection

float64 = torch.float64


@dataclass(frozen=True)
class Uniform:
    """On ``[low, high]``."""

    low: float
    high: float

    def draw(self, n_draws: int, generator: torch.Generator | None) -> torch.Tensor:
        return self.low + (self.high - self.low) * torch.rand(n_draws, 1, generator=generator, dtype=float64)

    def log_density(self, position: torch.Tensor) -> torch.Tensor:
        return torch.full(position.shape[:-1], -math.log(self.high - self.low), dtype=position.dtype)


@dataclass(frozen=True)
class Cauchy:
    def draw(self, n_draws: int, generator: torch.Generator | None) -> torch.Tensor:
        return (math.pi * (torch.rand(n_draws, 1, generator=generator, dtype=float64) - 0.5)).tan()

    def log_density(self, position: torch.Tensor) -> torch.Tensor:
        return -math.log(math.pi) - position[..., 0].square().log1p()


def gaussian(deviation: float, *shape: int) -> DiagonalGaussian:
    return DiagonalGaussian(torch.zeros(shape, dtype=float64), torch.full(shape, deviation, dtype=float64))


# unnormalised log-density of x, its integral, proposal, log k, law
FIVE = {
    "normal under Cauchy": (
        lambda x: -0.5 * x**2,
        math.sqrt(2 * math.pi),
        Cauchy(),
        math.log(2 * math.pi) - 0.5,  # the ratio is largest at 1 and -1
        scipy.stats.norm(),
    ),
    "beta": (
        lambda x: 1.5 * x.log() + 2.0 * (1 - x).log(),
        scipy.special.beta(2.5, 3.0),
        Uniform(0.0, 1.0),
        1.5 * math.log(1.5 / 3.5) + 2.0 * math.log(2.0 / 3.5),
        scipy.stats.beta(2.5, 3.0),
    ),
    "semicircle": (
        lambda x: 0.5 * (1 - x**2).log(),
        math.pi / 2,
        Uniform(-1.0, 1.0),
        math.log(2.0),
        scipy.stats.semicircular(),
    ),
    "triangle": (
        lambda x: torch.where(x < 0.3, x / 0.3, (1 - x) / 0.7).log() + 5.0,
        0.5 * math.exp(5.0),
        Uniform(0.0, 1.0),
        5.0,
        scipy.stats.triang(0.3),
    ),
    "hyperbolic secant under Cauchy": (
        lambda x: -(x.abs() + torch.log1p((-2 * x.abs()).exp()) - math.log(2)),
        math.pi,
        Cauchy(),
        math.log(1.4 * math.pi),
        scipy.stats.hypsecant(),
    ),
}


@pytest.mark.parametrize("name", FIVE)
def test_law_and_acceptance(name) -> None:
    log_density, integral, proposal, log_envelope, law = FIVE[name]
    result = rejection(lambda position: log_density(position[..., 0]), proposal, log_envelope, 20_000, seed=1)
    assert result.draws.shape == (20_000, 1)
    draws = result.draws[:, 0].numpy()
    assert scipy.stats.kstest(draws, law.cdf).pvalue > 1e-4
    assert scipy.stats.kstest(draws, lambda x: law.cdf(1.1 * x + 0.03)).pvalue < 1e-4
    expected = integral / math.exp(log_envelope)
    assert abs(float(result.acceptance) - expected) < 4.5 * float(result.acceptance_error)
    assert abs(float(result.log_normaliser) - math.log(integral)) < 4.5 * float(result.log_normaliser_error)
    assert float(result.log_normaliser_error) < 0.02


def test_a_batch_of_targets_in_several_dimensions() -> None:
    deviation = torch.tensor([[0.5, 0.5], [0.9, 0.7], [1.0, 1.0]], dtype=float64)
    target = DiagonalGaussian(torch.zeros_like(deviation), deviation)
    log_envelope = -deviation.log().sum(dim=-1)
    result = rejection(target.log_density, gaussian(1.0, 3, 2), log_envelope, 5000, block_size=700)
    assert result.draws.shape == (5000, 3, 2)
    for member in range(3):
        for coordinate in range(2):
            law = scipy.stats.norm(scale=float(deviation[member, coordinate]))
            assert scipy.stats.kstest(result.draws[:, member, coordinate].numpy(), law.cdf).pvalue > 1e-4
    error = 4.5 * result.acceptance_error
    assert ((result.acceptance - (-log_envelope).exp()).abs() <= error).all()
    assert result.acceptance[2] == 1.0  # the third is its own proposal
    assert result.n_proposed % 700 == 0


def test_accepted_draws_are_kept_in_order_without_gaps() -> None:
    # accepted are the positive ones, so the draws are the proposals with the others struck out
    def log_density(position: torch.Tensor) -> torch.Tensor:
        inside = position[..., 0] > 0
        return torch.where(inside, proposal.log_density(position), -torch.inf)

    proposal = gaussian(1.0, 2, 1)
    result = rejection(
        log_density, proposal, 1e-7, 10, block_size=64, generator=torch.Generator().manual_seed(0)
    )
    first_block = proposal.draw(64, torch.Generator().manual_seed(0))
    for member in range(2):
        positive = first_block[first_block[:, member, 0] > 0, member, 0]
        torch.testing.assert_close(result.draws[:, member, 0], positive[:10])


def test_errors_of_the_normaliser_are_of_the_right_size() -> None:
    target = gaussian(0.5, 200, 1)
    result = rejection(target.log_density, gaussian(1.0, 200, 1), math.log(2.0), 500)
    deviation = result.log_normaliser / result.log_normaliser_error
    assert float(deviation.abs().max()) < 4.5
    assert 0.7 < float(deviation.square().mean()) < 1.4


def test_float32_and_an_envelope_that_touches() -> None:
    target = DiagonalGaussian(torch.zeros(30), torch.full((30,), 3.7))
    result = rejection(lambda position: target.log_density(position) + 12.3, target, 12.3, 1000)
    assert result.draws.dtype == torch.float32
    assert float(result.acceptance) > 0.999


def test_an_envelope_that_is_exceeded() -> None:
    # exceeded by 0.5 log(2) + 1 at the origin, and most there
    target = gaussian(0.5, 1)
    with pytest.raises(
        UserError, match=r"log_envelope: expected .* an excess of 0\.\d+ nats at \[-?0\.\d+\]"
    ) as error:
        rejection(target.log_density, gaussian(1.0, 1), 0.0, 10)
    excess = float(str(error.value).split("excess of ")[1].split()[0])
    position = float(str(error.value).split("[")[1].rstrip("]"))
    assert excess == pytest.approx(math.log(2) - 1.5 * position**2, abs=1e-5)


def test_a_hopeless_envelope() -> None:
    target = gaussian(1.0, 1)
    message = (
        r"log_envelope: expected 100 accepted draws within max_proposals=50000, came \d, an acceptance of"
    )
    with pytest.raises(UserError, match=message):
        rejection(target.log_density, target, 12.0, 100, max_proposals=50_000)


def test_mistakes() -> None:
    target = gaussian(1.0, 2, 1)
    with pytest.raises(UserError, match="n_draws"):
        rejection(target.log_density, target, 0.0, 0)
    with pytest.raises(UserError, match="log_envelope: expected finite numbers, came inf"):
        rejection(target.log_density, target, math.inf, 1)
    with pytest.raises(UserError, match=r"log_envelope: expected one number or one for each of \(2,\)"):
        rejection(target.log_density, target, torch.zeros(3), 1)
    with pytest.raises(UserError, match=r"log_density_fn: expected values of shape \(4096, 2\)"):
        rejection(lambda position: position, target, 0.0, 1)
    with pytest.raises(UserError, match="log_density_fn: expected finite values or -inf, came NaN"):
        rejection(lambda position: position[..., 0].log(), target, 0.0, 1)
