"""What running a kernel promises: shapes, seeds, chains that do not touch, moments, thinning, errors, warm-up."""

from __future__ import annotations

import importlib
import inspect
import math
from typing import Any

import pytest
import torch
from exact_targets import BANANA, DTYPE, GAUSSIAN, PPCA, PPCA_ENCODER
from torch import Tensor

from recsys_vae.errors import UserError
from recsys_vae.samplers import (
    HMC,
    IndependenceProposal,
    Kernel,
    Tuning,
    chees,
    cycle,
    density,
    diagnostics,
    elliptical_slice,
    gibbs,
    hmc,
    mala,
    metropolis_hastings,
    mixture,
    random_walk_metropolis,
    sample,
)

KERNELS: dict[str, Kernel[Any]] = {
    "random_walk_metropolis": random_walk_metropolis(),
    "metropolis_hastings": metropolis_hastings(),
    "independence": metropolis_hastings(IndependenceProposal(PPCA_ENCODER)),
    "mala": mala(),
    "hmc": hmc(n_leapfrog=3.0),
    "chees": chees(n_leapfrog=3.0),
    "elliptical_slice": elliptical_slice(),
    "gibbs": gibbs(),
    "gibbs_random_scan": gibbs(scan="random"),
    "cycle": cycle([random_walk_metropolis(), mala()]),
    "mixture": mixture([elliptical_slice(), mala()]),
}
every_kernel = pytest.mark.parametrize("name", list(KERNELS))


def standard_normal(position: Tensor) -> Tensor:
    return -0.5 * position.square().sum(dim=-1)


def starts(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DTYPE)


@every_kernel
def test_shapes_with_and_without_an_axis_of_users(name) -> None:
    for shape in ((3, 2), (3, 4, 2), (2, 3, 2, 2)):
        result = sample(KERNELS[name], standard_normal, starts(*shape), n_draws=6, n_warmup=5)
        assert result.draws is not None
        assert result.draws.shape == (6, *shape)
        assert result.mean.shape == result.variance.shape == shape[1:]
        assert result.energy.shape == result.divergent.shape == (6, *shape[:-1])
        found = result.diagnostics
        for value in (found.r_hat, found.ess_bulk, found.ess_tail, found.mcse_mean):
            assert value.shape == shape[1:]
        for value in (found.acceptance, found.divergences, found.invalid, found.bfmi):
            assert value.shape == shape[:-1]
        assert torch.equal(result.position, result.draws[-1])
        assert set(found.summary()) >= {"max_r_hat", "min_ess_bulk", "divergences", "invalid"}


@every_kernel
def test_the_seed_decides_and_the_start_is_left_alone(name) -> None:
    start = starts(3, 2)
    before = start.clone()
    first, again, other = (
        sample(KERNELS[name], standard_normal, start, n_draws=4, n_warmup=6, seed=seed).draws
        for seed in (7, 7, 8)
    )
    assert first is not None
    assert again is not None
    assert other is not None
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(start, before)


def spoiled_by(fault: float, threshold: float) -> Any:
    """The standard normal, but the last chain's density jumps about, and is no number in half of the plane."""

    def log_density(position: Tensor) -> Tensor:
        value = standard_normal(position)
        wild = 300.0 * torch.sin(40.0 * position[-1:, ..., 0]) + value[-1:]
        wild = torch.where(position[-1:, ..., 1] > threshold, fault, wild)
        return torch.cat([value[:-1], wild])

    return log_density


@every_kernel
@pytest.mark.parametrize("fault", [torch.nan, torch.inf, -torch.inf])
def test_a_chain_that_goes_astray_changes_no_bit_of_the_others(name, fault) -> None:
    start = starts(4, 2).clamp(max=0.0)
    # Warm-up pools the chains of one target to learn the scale, so the scale stays.
    options: dict[str, Any] = {"n_draws": 5, "n_warmup": 6, "adapt_scale": False, "seed": 3}
    if name == "chees":
        # All chains learn one length: without warm-up it stays.
        options["n_warmup"] = 0
    well = sample(KERNELS[name], standard_normal, start, **options)
    ill = sample(KERNELS[name], spoiled_by(fault, 0.3), start, **options)
    assert well.draws is not None
    assert ill.draws is not None
    assert torch.equal(well.draws[:, :-1], ill.draws[:, :-1])
    assert not torch.equal(well.draws[:, -1], ill.draws[:, -1])
    assert ill.draws.isfinite().all()
    assert (ill.diagnostics.invalid[:-1] == 0).all()


@every_kernel
@pytest.mark.parametrize("fault", [torch.nan, torch.inf])
def test_a_density_that_is_no_number_is_a_rejected_move_and_counted(name, fault) -> None:
    def walled(position: Tensor) -> Tensor:
        return torch.where(position[..., 0] > 0.2, fault, standard_normal(position))

    result = sample(KERNELS[name], walled, starts(6, 2).clamp(max=0.0), n_draws=40, n_warmup=10)
    assert result.draws is not None
    assert (result.draws[..., 0] <= 0.2).all()
    assert result.diagnostics.invalid.sum() > 0
    assert result.diagnostics.summary()["invalid"] == int(result.diagnostics.invalid.sum())
    assert (result.diagnostics.invalid <= 40).all()


@pytest.mark.parametrize("n_draws", [4, 51, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_moments_without_draws_are_those_of_the_draws(n_draws, dtype) -> None:
    start = starts(5, 3, 2).to(dtype) + 2.0

    def shifted(position: Tensor) -> Tensor:
        return standard_normal(position - 5.0)

    kept, running = (
        sample(mala(), shifted, start, n_draws=n_draws, n_warmup=10, keep_draws=keep)
        for keep in (True, False)
    )
    assert running.draws is None
    torch.testing.assert_close(running.mean, kept.mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        running.variance, kept.variance, rtol=2e-5 if dtype == torch.float32 else 1e-6, atol=0.0
    )
    assert torch.equal(running.position, kept.position)
    assert torch.equal(running.energy, kept.energy)
    assert running.diagnostics.ess_tail.isnan().all()
    assert kept.draws is not None
    half = n_draws // 2
    if n_draws % 2 == 0:
        halves = torch.cat([kept.draws[:half], kept.draws[half:]], dim=1).double()
        within = halves.var(dim=0).mean(dim=0)
        expected = ((half - 1) / half + halves.mean(dim=0).var(dim=0) / within).sqrt()
        torch.testing.assert_close(running.diagnostics.r_hat.double(), expected, rtol=1e-4, atol=0.0)
    if n_draws == 300:
        assert (running.diagnostics.r_hat - kept.diagnostics.r_hat).abs().max() < 0.02
        ratio = running.diagnostics.ess_bulk / diagnostics.ess_mean(kept.draws)
        assert ((ratio > 0.5) & (ratio < 2.0)).all()


def test_a_bad_mixture_of_chains_is_seen_with_and_without_draws() -> None:
    # Two modes that no chain leaves.
    def modes(position: Tensor) -> Tensor:
        apart = torch.stack([standard_normal(position - 20.0), standard_normal(position + 20.0)])
        return apart.logsumexp(dim=0)

    start = torch.tensor([[20.0], [20.0], [-20.0], [-20.0]], dtype=DTYPE)
    for keep in (True, False):
        result = sample(mala(), modes, start, n_draws=100, n_warmup=20, keep_draws=keep, adapt_scale=False)
        assert result.diagnostics.summary()["max_r_hat"] > 1.5
        # However well each mixes where it is, together they are worth about as many draws as there are chains.
        assert result.diagnostics.summary()["min_ess_bulk"] < 12.0


def test_a_start_without_a_slope_is_refused() -> None:
    def no_slope(position: Tensor) -> Tensor:
        return -position.abs().sum(dim=-1).sqrt()

    start = torch.tensor([[1.0, 2.0], [0.0, 0.0], [0.0, 1.0]])
    for kernel in (hmc(), mala(), cycle([random_walk_metropolis(), hmc()])):
        with pytest.raises(UserError, match=r"log_density_fn: expected finite gradients .* at 1 of 3"):
            sample(kernel, no_slope, start, n_draws=5, n_warmup=2)
    sample(random_walk_metropolis(), no_slope, start, n_draws=5, n_warmup=2)


def test_thinning_keeps_every_third() -> None:
    start = starts(3, 2)
    all_of_them = sample(mala(), standard_normal, start, n_draws=30, n_warmup=10, seed=4)
    thinned = sample(mala(), standard_normal, start, n_draws=10, n_warmup=10, thin=3, seed=4)
    assert all_of_them.draws is not None
    assert thinned.draws is not None
    assert torch.equal(thinned.draws, all_of_them.draws[2::3])
    torch.testing.assert_close(thinned.diagnostics.acceptance, all_of_them.diagnostics.acceptance)


def test_every_draw_and_every_step_is_reported() -> None:
    seen, told = [], []
    result = sample(
        mala(),
        standard_normal,
        starts(3, 2),
        n_draws=5,
        n_warmup=3,
        thin=2,
        on_draw=lambda position: seen.append(position.clone()),
        progress=lambda *report: told.append(report),
    )
    assert result.draws is not None
    assert torch.equal(torch.stack(seen), result.draws)
    assert told == [("warm-up", step, 3) for step in (1, 2, 3)] + [("draws", draw, 5) for draw in range(1, 6)]


def test_another_run_goes_on_where_the_last_one_stopped() -> None:
    kernel = hmc(n_leapfrog=3.0)
    first = sample(kernel, GAUSSIAN.log_density, starts(4, 2), n_draws=10, n_warmup=100)
    on = sample(
        kernel, GAUSSIAN.log_density, first.position, n_draws=50, n_warmup=0, tuning=first.tuning, seed=1
    )
    assert on.tuning is first.tuning
    assert on.diagnostics.acceptance.mean() > 0.6


def test_without_warm_up_the_given_step_size_and_scale_are_kept() -> None:
    scale = torch.tensor([0.5, 2.0], dtype=DTYPE)
    result = sample(
        mala(), standard_normal, starts(3, 2), n_draws=4, n_warmup=0, step_size=0.125, scale=scale
    )
    assert (result.tuning.step_size == 0.125).all()
    assert torch.equal(result.tuning.scale, scale)


def test_warm_up_learns_the_scale_of_each_target() -> None:
    spread = torch.tensor([[0.01, 1.0], [30.0, 0.2], [1.0, 5.0]], dtype=DTYPE)

    def log_density(position: Tensor) -> Tensor:
        return standard_normal(position / spread)

    result = sample(hmc(n_leapfrog=3.0), log_density, starts(8, 3, 2), n_draws=100, n_warmup=500)
    assert result.tuning.scale.shape == (3, 2)
    assert ((result.tuning.scale / spread).log().abs() < math.log(1.4)).all()
    assert (result.diagnostics.r_hat < 1.05).all()
    kept = sample(
        hmc(n_leapfrog=2.0), log_density, starts(8, 3, 2), n_draws=4, n_warmup=50, adapt_scale=False
    )
    assert (kept.tuning.scale == 1.0).all()


@pytest.mark.parametrize("step_size", [0.02, 20.0])
@pytest.mark.parametrize(
    "kernel",
    [
        random_walk_metropolis(),
        mala(),
        pytest.param(hmc(n_leapfrog=4.0), marks=pytest.mark.slow),
        pytest.param(chees(), marks=pytest.mark.slow),
        pytest.param(cycle([random_walk_metropolis(), elliptical_slice(), mala()]), marks=pytest.mark.slow),
        pytest.param(mixture([mala(), gibbs()]), marks=pytest.mark.slow),
    ],
    ids=["random_walk_metropolis", "mala", "hmc", "chees", "cycle", "mixture"],
)
def test_warm_up_reaches_the_target_acceptance(kernel, step_size) -> None:
    target = BANANA.log_density if kernel.target_acceptance > 0.5 else standard_normal
    start = BANANA.draw(32, torch.Generator().manual_seed(1))
    result = sample(kernel, target, start, n_draws=200, n_warmup=600, step_size=step_size, adapt_scale=False)
    if isinstance(kernel, type(cycle([mala()]))):
        # A third of the steps is always accepted: what is steered is the mean of the other two.
        reached = (3.0 * float(result.diagnostics.acceptance.mean()) - 1.0) / 2.0
    elif isinstance(kernel, type(mixture([mala()]))):
        reached = 2.0 * float(result.diagnostics.acceptance.mean()) - 1.0
    else:
        reached = float(result.diagnostics.acceptance.mean())
    assert abs(reached - kernel.target_acceptance) < 0.12


@pytest.mark.slow
def test_chees_learns_longer_trajectories_where_the_target_is_long() -> None:
    spread = torch.tensor([1.0, 20.0], dtype=DTYPE)

    def stretched(position: Tensor) -> Tensor:
        return standard_normal(position / spread)

    start = starts(32, 2) * spread
    long = sample(chees(), stretched, start, n_draws=100, n_warmup=500, adapt_scale=False)
    short = sample(chees(), standard_normal, starts(32, 2), n_draws=100, n_warmup=500, adapt_scale=False)
    assert long.tuning.n_leapfrog > 3.0 * short.tuning.n_leapfrog
    assert (long.diagnostics.ess_bulk > 500).all()
    bounded = sample(chees(max_leapfrog=4), stretched, start, n_draws=4, n_warmup=300, adapt_scale=False)
    assert bounded.tuning.n_leapfrog <= 4.0 + 1e-9


def test_many_users_at_once_are_each_given_their_own_posterior() -> None:
    generator = torch.Generator().manual_seed(2)
    x = PPCA.simulate(torch.randn(50, 2, generator=generator, dtype=DTYPE), generator)
    exact = PPCA.posterior(x)
    result = sample(hmc(n_leapfrog=4.0), lambda z: PPCA.log_joint(z, x), starts(8, 50, 2), 100, 100)
    score = (result.mean - exact.mean) / result.diagnostics.mcse_mean
    assert score.abs().max() < 4.9  # of 100 numbers
    assert result.draws is not None
    squares = (result.draws - exact.mean).square()
    variance = (exact.scale_tril @ exact.scale_tril.mT).diagonal(dim1=-2, dim2=-1)
    score = (squares.mean(dim=(0, 1)) - variance) / diagnostics.mcse_mean(squares)
    assert score.abs().max() < 4.9


def half_invalid(value: float) -> Any:
    return lambda z: torch.where(z[..., 0] > 0.5, value, standard_normal(z))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"initial": torch.zeros(3)}, "initial: expected positions"),
        ({"initial": torch.zeros(0, 2)}, "initial: expected positions"),
        ({"initial": torch.zeros(3, 0)}, "initial: expected positions"),
        ({"initial": torch.zeros(3, 2, dtype=torch.int64)}, "initial: expected positions"),
        ({"initial": torch.tensor([[0.0, torch.nan]])}, "initial: expected finite"),
        ({"initial": torch.tensor([[0.0, torch.inf]])}, "initial: expected finite"),
        (
            {"log_density_fn": half_invalid(torch.nan)},
            r"log_density_fn: expected finite .* nan at chain \(1,\)",
        ),
        (
            {"log_density_fn": half_invalid(torch.inf)},
            r"log_density_fn: expected finite .* inf at chain \(1,\)",
        ),
        (
            {"log_density_fn": half_invalid(-torch.inf)},
            r"log_density_fn: expected finite .* -inf at chain \(1,\)",
        ),
        ({"log_density_fn": lambda z: -z.square()}, r"log_density_fn: expected a shape \(3,\)"),
        ({"log_density_fn": lambda z: standard_normal(z).sum()}, r"log_density_fn: expected a shape \(3,\)"),
        ({"n_draws": 3}, "n_draws: .* at least 4"),
        ({"n_draws": 0}, "n_draws: .* at least 4"),
        ({"n_warmup": -1}, "n_warmup: expected .* at least 0"),
        ({"thin": 0}, "thin: expected .* at least 1"),
        ({"n_draws": 10.0}, r"n_draws: .* at least 4 draws, came 10\.0"),
        ({"n_warmup": 2.0}, r"n_warmup: expected a whole number .* came 2\.0"),
        ({"thin": 1.5}, r"thin: expected a whole number .* came 1\.5"),
        ({"seed": 0.5}, r"seed: expected a whole number .* came 0\.5"),
        ({"seed": -1}, "seed: expected a whole number .* came -1"),
        (
            {"tuning": Tuning(torch.ones(2), torch.ones(2))},
            r"tuning: expected step sizes \(3,\), came \(2,\)",
        ),
        ({"tuning": Tuning(torch.zeros(3), torch.ones(2))}, "tuning: expected positive step sizes"),
        ({"tuning": Tuning(torch.ones(3), torch.ones(3))}, r"tuning\.scale: expected a shape"),
        ({"tuning": Tuning(torch.ones(3), -torch.ones(2))}, r"tuning\.scale: expected positive"),
        ({"step_size": 0.0}, "step_size: expected a positive"),
        ({"step_size": -1.0}, "step_size: expected a positive"),
        ({"step_size": math.nan}, "step_size: expected a positive"),
        ({"step_size": math.inf}, "step_size: expected a positive"),
        ({"scale": torch.ones(3)}, "scale: expected a shape"),
        ({"scale": torch.ones(5, 3, 2)}, "scale: expected a shape"),
        ({"scale": torch.tensor([1.0, 0.0])}, "scale: expected positive"),
        ({"scale": torch.tensor([1.0, -1.0])}, "scale: expected positive"),
        ({"scale": torch.tensor([1.0, torch.nan])}, "scale: expected positive"),
        ({"scale": torch.tensor([1.0, torch.inf])}, "scale: expected positive"),
    ],
)
@pytest.mark.parametrize("name", ["random_walk_metropolis", "hmc"])
def test_a_mistake_is_named(name, options, message, monkeypatch) -> None:
    # What users meet is the function without the tests' own checking of shapes, which would find some of these first.
    monkeypatch.setattr(
        importlib.import_module("recsys_vae.samplers.hmc"),
        "value_and_gradient",
        inspect.unwrap(density.value_and_gradient),
    )
    monkeypatch.setattr(HMC, "init", inspect.unwrap(HMC.init))
    initial = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    given: dict[str, Any] = {
        "log_density_fn": standard_normal,
        "initial": initial,
        "n_draws": 5,
        "n_warmup": 2,
    }
    with pytest.raises(UserError, match=f"^{message}") as error:
        inspect.unwrap(sample)(KERNELS[name], **(given | options))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("bound", [0, -3])
def test_a_bound_that_leaves_no_step_is_refused(bound) -> None:
    with pytest.raises(UserError, match="max_leapfrog"):
        chees(max_leapfrog=bound)
