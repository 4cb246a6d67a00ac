"""Every kernel against the contract, and what each does on top of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from exact_targets import DTYPE, GAUSSIAN, PPCA_ENCODER
from kernel_contract import KernelContract

from recsys_vae.errors import UserError
from recsys_vae.samplers import (
    AutoregressiveProposal,
    ChainState,
    DiagonalGaussian,
    FullGaussian,
    GradientState,
    IndependenceProposal,
    Kernel,
    chees,
    cycle,
    elliptical_slice,
    gibbs,
    hmc,
    mala,
    metropolis_hastings,
    mixture,
    random_walk_metropolis,
    sample,
)


class TestRandomWalkMetropolis(KernelContract):
    def kernel(self) -> Kernel[Any]:
        return random_walk_metropolis()


class TestMetropolisHastings(KernelContract):
    def kernel(self) -> Kernel[Any]:
        return metropolis_hastings()


class TestAutoregressiveProposal(KernelContract):
    step_size = 0.8

    def kernel(self) -> Kernel[Any]:
        return metropolis_hastings(AutoregressiveProposal(mean=0.2, standard_deviation=1.5))


class TestIndependenceProposal(KernelContract):
    thin = 40

    def kernel(self) -> Kernel[Any]:
        return metropolis_hastings(IndependenceProposal(PPCA_ENCODER))

    def test_finds_a_gaussian_from_a_bad_start(self) -> None:
        # From far in the tails an independence proposal does not come back; warm-up has nothing to learn.
        wide = DiagonalGaussian(torch.zeros(2, dtype=DTYPE), torch.full((2,), 3.0, dtype=DTYPE))
        kernel = metropolis_hastings(IndependenceProposal(wide))
        result = sample(kernel, GAUSSIAN.log_density, torch.full((8, 2), -3.0, dtype=DTYPE), 500, 100)
        exact = GAUSSIAN.draw(200_000, torch.Generator().manual_seed(3)).mean(dim=0)
        assert ((result.mean - exact).abs() < 4.5 * result.diagnostics.mcse_mean + 0.01).all()
        assert (result.tuning.step_size == kernel.initial_step_size(2)).all()


class TestMALA(KernelContract):
    step_size = 0.7

    def kernel(self) -> Kernel[Any]:
        return mala()


class TestHMC(KernelContract):
    thin = 6

    def kernel(self) -> Kernel[Any]:
        return hmc(n_leapfrog=4.0)


class TestChEES(KernelContract):
    thin = 6

    def kernel(self) -> Kernel[Any]:
        return chees(n_leapfrog=4.0)


class TestEllipticalSlice(KernelContract):
    thin = 6

    def kernel(self) -> Kernel[Any]:
        return elliptical_slice()


class TestEllipticalSliceWithPrior(KernelContract):
    thin = 6

    def kernel(self) -> Kernel[Any]:
        tril = torch.tensor([[1.4, 0.0], [-0.3, 1.1]], dtype=DTYPE)
        return elliptical_slice(FullGaussian(torch.tensor([0.5, -0.2], dtype=DTYPE), tril))


class TestGibbsBySlices(KernelContract):
    reversible = False
    thin = 5

    def kernel(self) -> Kernel[Any]:
        return gibbs()


class TestGibbsRandomScan(KernelContract):
    thin = 8

    def kernel(self) -> Kernel[Any]:
        return gibbs(scan="random", max_steps_out=3)


class TestGibbsByConditionals(KernelContract):
    reversible = False
    uses_density = False
    targets = (GAUSSIAN,)

    def kernel(self) -> Kernel[Any]:
        return gibbs(gaussian_conditionals())

    def test_a_density_of_nan_is_a_rejected_step(self) -> None:
        kernel = self.kernel()
        start = torch.zeros(2000, 2, dtype=DTYPE)

        def walled(z: torch.Tensor) -> torch.Tensor:
            return GAUSSIAN.log_density(z).where(z[..., 0] <= 1.0, torch.nan)

        state, info = kernel.step(
            kernel.init(start, walled), walled, kernel.default_tuning(start), torch.Generator().manual_seed(1)
        )
        assert info.invalid.any()
        assert torch.equal(state.position[info.invalid], start[info.invalid])
        assert (state.position[~info.invalid] != 0.0).all()


class TestCycle(KernelContract):
    reversible = False
    step_size = 0.5
    thin = 6

    def kernel(self) -> Kernel[Any]:
        return cycle([random_walk_metropolis(), mala(), elliptical_slice(), hmc(n_leapfrog=2.0)])


class TestNestedCombination(KernelContract):
    """Combinations of combinations, of all kinds of states."""

    reversible = False
    step_size = 0.5
    thin = 12

    def kernel(self) -> Kernel[Any]:
        inner = mixture([random_walk_metropolis(), mala()])
        return cycle([inner, elliptical_slice(), mixture([cycle([hmc(n_leapfrog=2.0), inner]), mala()])])


class TestMixture(KernelContract):
    step_size = 0.5
    thin = 30

    def kernel(self) -> Kernel[Any]:
        kernels = [random_walk_metropolis(), mala(), elliptical_slice()]
        return mixture(kernels, weights=[1.0, 2.0, 0.5])

    def test_weights_say_how_often_a_kernel_is_picked(self) -> None:
        start = torch.zeros(1, 2, dtype=DTYPE)
        kernel = mixture([random_walk_metropolis(), mala()], weights=[1.0, 4.0])
        state = kernel.init(start, GAUSSIAN.log_density)
        generator = torch.Generator().manual_seed(1)
        kinds = []
        for _ in range(500):
            state, _info = kernel.step(state, GAUSSIAN.log_density, kernel.default_tuning(start), generator)
            kinds.append(type(state.latest) is GradientState)
        assert abs(sum(kinds) / 500 - 0.8) < 4.5 * (0.16 / 500) ** 0.5


def gaussian_conditionals():
    """Each coordinate of the correlated Gaussian given the other."""
    mean = torch.tensor([1.0, -0.5], dtype=DTYPE)
    tril = torch.tensor([[1.2, 0.0], [0.9, 0.6]], dtype=DTYPE)
    covariance = tril @ tril.T

    def conditional(own: int, other: int):
        slope = covariance[own, other] / covariance[other, other]
        spread = (covariance[own, own] - slope * covariance[own, other]).sqrt()

        def draw(position: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
            noise = torch.randn(position[..., :1].shape, generator=generator, dtype=position.dtype)
            return mean[own] + slope * (position[..., other : other + 1] - mean[other]) + spread * noise

        return draw

    return [conditional(0, 1), conditional(1, 0)]


class Counting:
    """A log-density that counts how often it is asked."""

    def __init__(self) -> None:
        self.n_calls = 0

    def __call__(self, position: torch.Tensor) -> torch.Tensor:
        self.n_calls += 1
        return GAUSSIAN.log_density(position)


def test_a_cycle_evaluates_no_more_than_its_kernels_and_the_missing_gradient() -> None:
    density = Counting()
    kernel = cycle([random_walk_metropolis(), mala(), mala(), random_walk_metropolis()])
    start = torch.zeros(3, 2, dtype=DTYPE)
    state = kernel.init(start, density)
    density.n_calls = 0
    state, _info = kernel.step(state, density, kernel.default_tuning(start), None)
    # One for each kernel, and one more for the gradient that the first mala misses after a random walk.
    assert density.n_calls == 5
    assert isinstance(state.latest, ChainState)


def test_a_user_s_own_distribution_is_proposed_to_that_user() -> None:
    means = torch.tensor([[-50.0, 0.0], [0.0, 50.0], [50.0, 50.0]], dtype=DTYPE)
    tril = torch.tensor([[0.5, 0.0], [0.2, 0.4]], dtype=DTYPE).expand(3, 2, 2)
    for law in (FullGaussian(means, tril), DiagonalGaussian(means, torch.ones_like(means))):
        kernel = metropolis_hastings(IndependenceProposal(law))
        start = means.expand(2000, 3, 2) + 0.3
        generator = torch.Generator().manual_seed(1)
        state, info = kernel.step(
            kernel.init(start, law.log_density), law.log_density, kernel.default_tuning(start), generator
        )
        assert info.acceptance.min() > 1.0 - 1e-9  # the proposal is the target
        assert ((state.position - means).abs() < 8.0).all()
        assert ((state.position.mean(dim=0) - means).abs() < 4.5 / 2000**0.5).all()


def test_an_axis_that_is_broadcast_gets_draws_of_its_own() -> None:
    means = torch.tensor([0.0, 100.0, 200.0]).view(3, 1, 1).expand(3, 1, 2)
    law = DiagonalGaussian(means, torch.ones(3, 1, 2))
    draws = IndependenceProposal(law).draw(
        torch.zeros(7, 3, 5, 2), hmc().default_tuning(torch.zeros(2)), torch.Generator().manual_seed(1)
    )
    assert draws.shape == (7, 3, 5, 2)
    assert len(draws.unique()) == draws.numel()
    assert ((draws - means).abs() < 10.0).all()


@pytest.mark.parametrize("shape", [(4, 2), (3, 3), (2, 3, 4, 2)])
def test_a_distribution_that_does_not_fit_is_refused(shape) -> None:
    law = DiagonalGaussian(torch.zeros(shape), torch.ones(shape))
    start = torch.zeros(3, 3, 2)
    for kernel in (metropolis_hastings(IndependenceProposal(law)), elliptical_slice(law)):
        with pytest.raises(UserError, match="distribution: expected batch"):
            kernel.step(
                ChainState(start, torch.zeros(3, 3)),
                lambda z: z.sum(-1),
                kernel.default_tuning(start),
                torch.Generator(),
            )


def test_elliptical_slices_of_users_with_priors_of_their_own() -> None:
    # No likelihood: the posterior is the prior, and every point of the ellipse is above every level.
    means = torch.tensor([[-5.0, 0.0], [0.0, 5.0], [5.0, 5.0]], dtype=DTYPE)
    prior = DiagonalGaussian(means, torch.tensor([[0.1, 1.0], [2.0, 1.0], [1.0, 3.0]], dtype=DTYPE))
    start = prior.draw(3000, torch.Generator().manual_seed(1))
    kernel = elliptical_slice(prior)
    state = kernel.init(start, prior.log_density)
    state, info = kernel.step(
        state, prior.log_density, kernel.default_tuning(start), torch.Generator().manual_seed(2)
    )
    assert info.accepted.all()
    standardised = (state.position - means) / prior.standard_deviation
    assert (standardised.mean(dim=0).abs() < 4.5 / 3000**0.5).all()
    assert ((standardised.square().mean(dim=0) - 1.0).abs() < 4.5 * (2.0 / 3000) ** 0.5).all()


def test_a_chain_that_finds_no_point_stays_and_says_so() -> None:
    start = torch.zeros(2, 2, dtype=DTYPE)

    def spike(z: torch.Tensor) -> torch.Tensor:
        return torch.where((z == 0.0).all(dim=-1), 0.0, -torch.inf)

    for kernel in (elliptical_slice(), gibbs()):
        state, info = kernel.step(
            kernel.init(start, spike), spike, kernel.default_tuning(start), torch.Generator()
        )
        assert torch.equal(state.position, start)
        assert not info.accepted.any()
        assert (info.acceptance == 0.0).all()


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: gibbs(scan="random", max_steps_out=0), "max_steps_out"),
        (lambda: gibbs(blocks=[[0, 1], [1]]), "blocks"),
        (lambda: gibbs(blocks=[[0], []]), "blocks"),
        (lambda: gibbs([lambda z, g: z], blocks=[[0], [1]]), "conditionals"),
        (lambda: sample(gibbs(blocks=[[0]]), GAUSSIAN.log_density, torch.zeros(2, 2)), "blocks"),
        (lambda: sample(gibbs([lambda z, g: z]), GAUSSIAN.log_density, torch.zeros(2, 2)), "conditionals"),
        (
            lambda: sample(gibbs([lambda z, g: z] * 2), lambda z: -z.square().sum(-1), torch.zeros(2, 2)),
            "conditionals",
        ),
        (lambda: cycle([]), "kernels"),
        (lambda: mixture([]), "kernels"),
        (lambda: mixture([mala()], weights=[0.0]), "weights"),
        (lambda: mixture([mala(), mala()], weights=[1.0]), "weights"),
        (lambda: metropolis_hastings(target_acceptance=1.0), "target_acceptance"),
        (lambda: hmc(n_leapfrog=0.0), "n_leapfrog"),
        (lambda: hmc(jitter=2.0), "jitter"),
        (lambda: hmc(target_acceptance=0.0), "target_acceptance"),
    ],
)
def test_a_mistake_is_named(make, argument) -> None:
    with pytest.raises(UserError, match=f"^{argument}: expected"):
        make()


def test_blocks_are_drawn_together() -> None:
    # The two coordinates of a block come from one call and need not be neighbours.
    def pair(position: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        return position[..., 1:2] + torch.tensor([1.0, 2.0])

    def single(position: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        return position[..., :1] + position[..., 2:]

    kernel = gibbs([pair, single], blocks=[[2, 0], [1]])
    start = torch.tensor([[0.0, 10.0, 0.0]])
    state, _info = kernel.step(
        kernel.init(start, lambda z: 0.0 * z.sum(-1)),
        lambda z: 0.0 * z.sum(-1),
        kernel.default_tuning(start),
        None,
    )
    assert state.position.tolist() == [[12.0, 23.0, 11.0]]


def test_a_combination_is_steered_by_the_kernels_that_have_a_target() -> None:
    # On a flat density all is accepted: the mean excess over 0.574 and 0.234 added to their mean is 1.
    def flat(position: torch.Tensor) -> torch.Tensor:
        return 0.0 * position.sum(dim=-1)

    start = torch.zeros(4, 2, dtype=DTYPE)
    kernels = [mala(), elliptical_slice(), random_walk_metropolis()]
    kernel = cycle(kernels)
    assert kernel.target_acceptance == pytest.approx(0.5 * (0.574 + 0.234))
    _new, info = kernel.step(kernel.init(start, flat), flat, kernel.default_tuning(start), None)
    torch.testing.assert_close(info.steering, torch.ones(4, dtype=DTYPE))
    for picked in (mala(), elliptical_slice()):
        chosen = mixture([picked, mala(), random_walk_metropolis()], weights=[1e12, 1e-12, 1e-12])
        target = chosen.target_acceptance
        assert target is not None
        _new, info = chosen.step(chosen.init(start, flat), flat, chosen.default_tuning(start), None)
        own = 1.0 - 0.574 if picked.target_acceptance else 0.0
        torch.testing.assert_close(info.steering, torch.full((4,), target + own, dtype=DTYPE))
    untuned = cycle([elliptical_slice(), gibbs()])
    assert untuned.target_acceptance is None
    _new, info = untuned.step(
        untuned.init(start, GAUSSIAN.log_density),
        GAUSSIAN.log_density,
        untuned.default_tuning(start),
        torch.Generator().manual_seed(1),
    )
    assert info.steering is None
    assert (info.acceptance == 1.0).all()
