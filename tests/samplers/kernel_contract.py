"""What every Markov kernel must do, written once; each kernel's test class inherits it.

The checks are functions of a kernel, so that the tests of the tests can run them on kernels that are wrong.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from exact_targets import DTYPE, PPCA, TARGETS, ExactTarget
from scipy import stats
from torch import Tensor
from two_sample import energy_distance, exchange, kolmogorov_smirnov, paired_moments

from recsys_vae.samplers import Kernel, Tuning, sample
from recsys_vae.samplers.diagnostics import mcse_mean

# With some 300 of these p-values over all kernels, a right one fails once in a thousand choices of the seeds.
P_VALUE = 3e-6


def run(
    kernel: Kernel[Any], log_density_fn: Any, position: Tensor, n_steps: int, tuning: Tuning, seed: int
) -> Tensor:
    """Positions after some steps without warm-up."""
    generator = torch.Generator().manual_seed(seed)
    state = kernel.init(position, log_density_fn)
    for _ in range(n_steps):
        state, _info = kernel.step(state, log_density_fn, tuning, generator)
    return state.position


def check_keeps_exact_draws(
    kernel: Kernel[Any],
    target: ExactTarget,
    *,
    n_steps: int = 8,
    n_chains: int = 4000,
    step_size: float | None = None,
    seed: int = 1,
) -> None:
    """Chains that start at exact draws stay there in law; the kernel moves at all."""
    start = target.draw(n_chains, torch.Generator().manual_seed(seed))
    fresh = target.draw(2 * n_chains, torch.Generator().manual_seed(seed + 1000))
    tuning = kernel.default_tuning(start, step_size)
    end = run(kernel, target.log_density, start, n_steps, tuning, seed)
    assert end.isfinite().all(), f"{target}: not finite"
    assert (end != start).any(dim=-1).double().mean() > 0.2
    found = {
        "Kolmogorov-Smirnov": kolmogorov_smirnov(end, fresh),
        "energy distance": energy_distance(end[:500], fresh[:500]),
        "paired moments": paired_moments(start, end),
    }
    assert min(found.values()) > P_VALUE, f"{target}: {found}"


def check_is_reversible(
    kernel: Kernel[Any], target: ExactTarget, *, n_chains: int = 20_000, step_size: float | None = None
) -> None:
    """From its target, one step there is as likely as one back."""
    start = target.draw(n_chains, torch.Generator().manual_seed(2))
    end = run(kernel, target.log_density, start, 1, kernel.default_tuning(start, step_size), 3)
    p_value = exchange(start, end)
    assert p_value > P_VALUE, f"{target}: {p_value}"


def check_joint_distribution(
    kernel: Kernel[Any], *, n_chains: int = 200, n_draws: int = 50, step_size: float | None = None
) -> None:
    """Geweke 2004: draws of ``(z, y)`` from the prior, and from turns of the kernel and of ``y | z``, have one law.

    The model is conjugate: ``exp(z)`` is Gamma(3, 1), ``y | z`` is Poisson of mean ``exp(z)``.
    """
    generator = torch.Generator().manual_seed(4)
    shape = torch.full((n_chains, 2), 3.0, dtype=DTYPE)

    def prior(n: int) -> Tensor:
        return torch._standard_gamma(shape.expand(n, -1, -1), generator=generator).log()

    def functions(z: Tensor, y: Tensor) -> Tensor:
        return torch.cat([z, z.square(), y / 3.0, y.square() / 9.0, z * y, (-y).exp()], dim=-1)

    z = prior(1)[0]
    y = torch.poisson(z.exp(), generator=generator)
    tuning = kernel.default_tuning(z, step_size)
    successive = []
    for _ in range(n_draws):

        def posterior(at: Tensor, y: Tensor = y) -> Tensor:
            return ((3.0 + y) * at - 2.0 * at.exp()).sum(dim=-1)

        state, _info = kernel.step(kernel.init(z, posterior), posterior, tuning, generator)
        z = state.position
        y = torch.poisson(z.exp(), generator=generator)
        successive.append(functions(z, y))
    turned = torch.stack(successive)
    z = prior(n_draws)
    direct = functions(z, torch.poisson(z.exp(), generator=generator)).flatten(0, 1)
    error = (mcse_mean(turned).square() + direct.var(dim=0) / len(direct)).sqrt()
    score = ((turned.mean(dim=(0, 1)) - direct.mean(dim=0)) / error).abs().max()
    p_value = direct.shape[1] * 2.0 * float(stats.norm.sf(float(score)))
    assert p_value > P_VALUE, f"z = {score:.1f}"


def check_calibration(
    kernel: Kernel[Any], *, n_users: int = 1000, thin: int = 20, step_size: float | None = None
) -> None:
    """Talts et al. 2018: the rank of the true ``z`` among thinned posterior draws is uniform over simulated users."""
    generator = torch.Generator().manual_seed(5)
    truth = torch.randn(n_users, 2, generator=generator, dtype=DTYPE)
    x = PPCA.simulate(truth, generator)
    start = torch.randn(5, n_users, 2, generator=generator, dtype=DTYPE)
    # Four draws of each of five chains; the last three fifths of them make 15 in all, so 16 ranks.
    result = sample(
        kernel,
        lambda z: PPCA.log_joint(z, x),
        start,
        n_draws=4,
        n_warmup=2 * thin,
        thin=thin,
        seed=6,
        step_size=step_size,
    )
    assert result.draws is not None
    draws = result.draws[-3:].flatten(0, 1)
    ranks = (draws < truth).sum(dim=0)
    p_values = []
    for coordinate in range(2):
        counts = ranks[:, coordinate].bincount(minlength=16)
        assert len(counts) == 16
        p_values.append(float(stats.chisquare(counts.numpy()).pvalue))
    assert min(p_values) > P_VALUE, f"{p_values}"


def check_nan_is_a_rejected_move(kernel: Kernel[Any], step_size: float | None = None) -> None:
    """NaN beyond 1 in the first coordinate is a wall: the chains keep the Gaussian before it, and it is reported."""

    def walled(z: Tensor) -> Tensor:
        return (-0.5 * z.square().sum(dim=-1)).where(z[..., 0] <= 1.0, torch.nan)

    noise = torch.randn(8000, 2, generator=torch.Generator().manual_seed(7), dtype=DTYPE)
    noise = noise[noise[:, 0] <= 1.0]
    start, fresh = noise[:3000], noise[3000:]
    generator = torch.Generator().manual_seed(8)
    tuning = kernel.default_tuning(start, step_size)
    state = kernel.init(start, walled)
    n_invalid = 0
    for _ in range(8):
        state, info = kernel.step(state, walled, tuning, generator)
        n_invalid += int(info.invalid.sum())
    assert n_invalid > 0
    assert (state.position[:, 0] <= 1.0).all()
    assert state.log_density.isfinite().all()
    assert kolmogorov_smirnov(state.position, fresh) > P_VALUE


class KernelContract:
    """Inherit and provide ``kernel``; ``step_size`` where the kernel's own suits the targets badly."""

    reversible = True
    step_size: float | None = None
    thin = 20
    # A kernel that draws from laws that it is given does not look at the density.
    uses_density = True
    targets = TARGETS

    def kernel(self) -> Kernel[Any]:
        """The kernel under test, for any density."""
        raise NotImplementedError

    @pytest.mark.parametrize("target", TARGETS, ids=str)
    def test_keeps_exact_draws(self, target: ExactTarget) -> None:
        if target not in self.targets:
            pytest.skip("the kernel is made for other targets")
        check_keeps_exact_draws(self.kernel(), target, step_size=self.step_size)

    @pytest.mark.parametrize("target", TARGETS, ids=str)
    def test_is_reversible(self, target: ExactTarget) -> None:
        if not self.reversible or target not in self.targets:
            pytest.skip("the kernel is not reversible, or made for other targets")
        check_is_reversible(self.kernel(), target, step_size=self.step_size)

    def test_joint_distribution(self) -> None:
        if not self.uses_density:
            pytest.skip("the kernel is made for one target")
        check_joint_distribution(self.kernel(), step_size=self.step_size)

    @pytest.mark.slow
    def test_calibration(self) -> None:
        if not self.uses_density:
            pytest.skip("the kernel is made for one target")
        check_calibration(self.kernel(), thin=self.thin, step_size=self.step_size)

    def test_nan_is_a_rejected_move(self) -> None:
        if not self.uses_density:
            pytest.skip("the kernel is made for one target")
        check_nan_is_a_rejected_move(self.kernel(), self.step_size)

    def test_a_step_leaves_its_state_alone(self) -> None:
        target = self.targets[0]
        kernel = self.kernel()
        state = kernel.init(target.draw(5, torch.Generator().manual_seed(1)), target.log_density)
        before = state.position.clone(), state.log_density.clone()
        tuning = kernel.default_tuning(state.position, self.step_size)
        new, info = kernel.step(state, target.log_density, tuning, torch.Generator().manual_seed(2))
        assert torch.equal(state.position, before[0])
        assert torch.equal(state.log_density, before[1])
        torch.testing.assert_close(new.log_density, target.log_density(new.position))
        assert ((info.acceptance >= 0) & (info.acceptance <= 1)).all()
        assert info.energy.isfinite().all()

    def test_finds_a_gaussian_from_a_bad_start(self) -> None:
        target = next(target for target in self.targets if "gaussian" in target.name or "ppca" in target.name)
        exact = target.draw(200_000, torch.Generator().manual_seed(3))
        start = 4.0 * torch.randn(64, 2, generator=torch.Generator().manual_seed(4), dtype=DTYPE) + 3.0
        result = sample(self.kernel(), target.log_density, start, n_draws=60, n_warmup=50, seed=5)
        error = result.diagnostics.mcse_mean
        assert ((result.mean - exact.mean(dim=0)).abs() < 4.5 * error + 0.01).all()
        assert result.draws is not None
        squares = (result.draws - exact.mean(dim=0)).square()
        spread = (squares.mean(dim=(0, 1)) - exact.var(dim=0)).abs()
        assert (spread < 4.5 * mcse_mean(squares) + 0.01 * exact.var(dim=0)).all()
        assert math.isfinite(result.diagnostics.summary()["mean_acceptance"])
