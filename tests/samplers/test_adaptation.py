"""The parts of warm-up, one by one."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from recsys_vae.samplers.adaptation import DualAveraging, LengthAscent, WarmUp, Welford, _window_ends
from recsys_vae.samplers.kernel import StepInfo, Tuning


@pytest.mark.parametrize("target", [0.234, 0.8])
@pytest.mark.parametrize("noisy", [False, True])
def test_dual_averaging_finds_the_step_size_of_its_target(target, noisy) -> None:
    """Acceptance falls with the step size as ``exp(-step / width)``, by a width of each chain's own."""
    width = torch.tensor([0.01, 1.0, 50.0], dtype=torch.float64)
    state = DualAveraging.start(torch.ones(3, dtype=torch.float64))
    generator = torch.Generator().manual_seed(1)
    for _ in range(3000):
        acceptance = (-state.log_step_size.exp() / width).exp()
        if noisy:
            acceptance = torch.bernoulli(acceptance, generator=generator)
        state = state.update(acceptance, target)
    reached = (-state.log_average.exp() / width).exp()
    assert (reached - target).abs().max() < (0.08 if noisy else 0.01)


def test_a_chain_s_step_size_does_not_depend_on_the_others() -> None:
    both = DualAveraging.start(torch.tensor([1.0, 3.0]))
    alone = DualAveraging.start(torch.tensor([3.0]))
    for acceptance in (0.1, 0.9, 0.5, 1.0):
        both = both.update(torch.tensor([1.0 - acceptance, acceptance]), 0.6)
        alone = alone.update(torch.tensor([acceptance]), 0.6)
    assert torch.equal(both.log_average[1:], alone.log_average)


def test_more_acceptance_makes_larger_steps() -> None:
    start = DualAveraging.start(torch.ones(2))
    state = start.update(torch.tensor([1.0, 0.0]), 0.6)
    assert state.log_step_size[0] > state.log_step_size[1]


def test_welford_is_the_variance() -> None:
    draws = 1e4 + torch.randn(
        20, 5, 3, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    ) * torch.tensor([0.01, 10.0], dtype=torch.float64)
    state = Welford.start(draws[0])
    for position in draws:
        state = state.update(position)
    flat = draws.flatten(0, 1)
    assert state.n_seen == 100
    torch.testing.assert_close(state.mean, flat.mean(dim=0), rtol=1e-12, atol=0.0)
    torch.testing.assert_close(state.squares / 99, flat.var(dim=0), rtol=1e-7, atol=0.0)
    prior = torch.tensor([2.0, 3.0], dtype=torch.float64)
    expected = ((state.squares + 5.0 * prior**2) / 105.0).sqrt()
    torch.testing.assert_close(state.regularised_scale(prior), expected)


def test_welford_of_nothing_is_the_prior() -> None:
    prior = torch.tensor([2.0, 3.0])
    torch.testing.assert_close(Welford.start(torch.zeros(4, 2)).regularised_scale(prior), prior)


@pytest.mark.parametrize("n_steps", [0, 1, 20, 33, 34, 100, 500, 1000, 5000])
def test_windows_double_and_end_where_they_should(n_steps) -> None:
    for last in (0.5, 0.9):
        start, stop = round(0.15 * n_steps), round(last * n_steps)
        ends = _window_ends(n_steps, last)
        if stop - start < 25:
            assert ends == []
            continue
        assert ends[-1] <= stop
        widths = [end - begin for begin, end in zip([start, *ends], ends, strict=False)]
        assert widths[0] >= 25
        assert all(wide == 2 * narrow for narrow, wide in itertools.pairwise(widths[:-1]))
        # The last is no narrower than the one before it, and nothing that could be a window is left over.
        assert len(widths) < 2 or widths[-1] >= 2 * widths[-2]
        assert ends[-1] == stop or stop - ends[-1] < 2 * widths[-1]


def test_all_that_is_left_belongs_to_the_last_window() -> None:
    assert _window_ends(1000, 0.9) == [175, 225, 325, 900]


def test_length_ascent_follows_the_slope_s_sign() -> None:
    up = down = LengthAscent(math.log(5.0), 0.0, 0.0, 0)
    for _ in range(10):
        up = up.update(torch.tensor([1.0, 3.0]), 1000.0)
        down = down.update(torch.tensor([-100.0, -300.0]), 1000.0)
    # Adam's steps do not depend on the size of a constant slope.
    assert up.log_length - math.log(5.0) == pytest.approx(0.25, rel=1e-6)
    assert down.log_length - math.log(5.0) == pytest.approx(-0.25, rel=1e-6)


def test_length_ascent_stays_within_its_bounds_and_leaves_out_what_is_not_finite() -> None:
    state = LengthAscent(0.01, 0.0, 0.0, 0)
    assert state.update(torch.tensor([-1.0]), 8.0).log_length == 0.0
    state = LengthAscent(math.log(7.99), 0.0, 0.0, 0)
    assert state.update(torch.tensor([1.0]), 8.0).log_length == math.log(8.0)
    untouched = state.update(torch.tensor([torch.nan, torch.inf, -torch.inf]), 8.0)
    assert untouched.log_length == state.log_length
    mixed = LengthAscent(1.0, 0.0, 0.0, 0).update(torch.tensor([torch.nan, 2.0]), 8.0)
    assert mixed.log_length > 1.0


def step_info(acceptance: torch.Tensor, **more: torch.Tensor) -> StepInfo:
    no = torch.zeros_like(acceptance, dtype=torch.bool)
    return StepInfo(acceptance, ~no, no, no, torch.zeros_like(acceptance), **more)


def tuning_of(n_chains: int, scale: torch.Tensor) -> Tuning:
    return Tuning(torch.ones(n_chains, dtype=torch.float64), scale)


def test_without_a_target_the_step_size_is_left_alone() -> None:
    warm_up = WarmUp(tuning_of(3, torch.ones(2)), 100, None, adapt_scale=False)
    for _ in range(100):
        warm_up.update(torch.zeros(3, 2), step_info(torch.zeros(3, dtype=torch.float64)))
    assert torch.equal(warm_up.finish().step_size, torch.ones(3, dtype=torch.float64))


def test_steering_takes_the_place_of_acceptance() -> None:
    steered, plain = (WarmUp(tuning_of(2, torch.ones(2)), 50, 0.5, adapt_scale=False) for _ in range(2))
    wanted = torch.tensor([0.9, 0.2], dtype=torch.float64)
    for _ in range(50):
        steered.update(torch.zeros(2, 2), step_info(torch.zeros_like(wanted), steering=wanted))
        plain.update(torch.zeros(2, 2), step_info(wanted))
    assert torch.equal(steered.finish().step_size, plain.finish().step_size)


def test_the_scale_is_that_of_the_last_window() -> None:
    generator = torch.Generator().manual_seed(3)
    spread = torch.tensor([0.1, 5.0], dtype=torch.float64)
    scale = torch.ones(2, dtype=torch.float64)
    warm_up = WarmUp(tuning_of(4, scale), 1000, 0.8)
    last_window = []
    for step in range(1000):
        position = spread * torch.randn(4, 2, generator=generator, dtype=torch.float64)
        if step < 325:
            position = position + 100.0 * (step % 2)  # what came before does not count
        elif step < 900:
            last_window.append(position)
        before = warm_up.tuning.scale
        warm_up.update(position, step_info(torch.full((4,), 0.8, dtype=torch.float64)))
        changed = not torch.equal(before, warm_up.tuning.scale)
        assert changed == (step + 1 in (175, 225, 325, 900))
        previous = before if changed else scale
        scale = previous
    draws = torch.cat(last_window)
    variance = draws.var(dim=0, unbiased=False) * len(draws) + 5.0 * scale.square()
    torch.testing.assert_close(warm_up.finish().scale, (variance / (len(draws) + 5.0)).sqrt())
