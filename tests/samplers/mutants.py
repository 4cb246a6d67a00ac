"""Faults planted in the production kernels, one at a time: the contract's checks must find each of them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from exact_targets import BANANA, GAUSSIAN, LOG_GAMMA, PPCA_ENCODER, PPCA_POSTERIOR
from kernel_contract import (
    check_calibration,
    check_is_reversible,
    check_joint_distribution,
    check_keeps_exact_draws,
)
from torch import Tensor

from recsys_vae.samplers import (
    AutoregressiveProposal,
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
)


@dataclass(frozen=True)
class Mutant:
    """A kernel, a fault, and the check that must fail with it and pass without."""

    name: str
    kernel: Callable[[], Kernel[Any]]
    plant: Callable[[pytest.MonkeyPatch], None]
    check: Callable[[Kernel[Any]], None]

    def __str__(self) -> str:
        return self.name


def _exact(target: Any, **options: Any) -> Callable[[Kernel[Any]], None]:
    return lambda kernel: check_keeps_exact_draws(kernel, target, **options)


def _reversible(target: Any, **options: Any) -> Callable[[Kernel[Any]], None]:
    return lambda kernel: check_is_reversible(kernel, target, **options)


def _joint(**options: Any) -> Callable[[Kernel[Any]], None]:
    return lambda kernel: check_joint_distribution(kernel, **options)


def _calibrated(**options: Any) -> Callable[[Kernel[Any]], None]:
    return lambda kernel: check_calibration(kernel, **options)


def _wrapped(path: str, wrap: Callable[[Any], Any]) -> Callable[[pytest.MonkeyPatch], None]:
    """What stands at ``module.name`` or ``module.Class.method`` gets wrapped."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        # As an attribute of the package, ``hmc`` is the kernel and not its module.
        module, *inner, last = path.split(".")
        owner: Any = importlib.import_module(f"recsys_vae.samplers.{module}")
        for name in inner:
            owner = getattr(owner, name)
        patch.setattr(owner, last, wrap(getattr(owner, last)))

    return plant


def _replaced(path: str, wrong: Any) -> Callable[[pytest.MonkeyPatch], None]:
    return _wrapped(path, lambda genuine: wrong)


def _rule(module: str, change: Callable[[Any, Any, Tensor], Tensor]) -> Callable[[pytest.MonkeyPatch], None]:
    """The acceptance rule of one module gets a changed log-ratio."""

    def wrap(genuine: Any) -> Any:
        return lambda state, moved, ratio, generator: genuine(
            state, moved, change(state, moved, ratio), generator
        )

    return _wrapped(f"{module}.metropolis_accept", wrap)


def _noise(module: str, change: Callable[[Tensor, Tensor], Tensor]) -> Callable[[pytest.MonkeyPatch], None]:
    def wrap(genuine: Any) -> Any:
        return lambda position, generator: change(position, genuine(position, generator))

    return _wrapped(f"{module}.standard_normal_like", wrap)


def accept_always(state: Any, moved: Any, log_ratio: Tensor) -> Tensor:
    return torch.zeros_like(log_ratio)


def accept_downhill(state: Any, moved: Any, log_ratio: Tensor) -> Tensor:
    return -log_ratio


def no_correction(state: Any, moved: Any, log_ratio: Tensor) -> Tensor:
    return moved.log_density - state.log_density


# What of the densities of the proposal goes wrong.


def _swapped(genuine: Any) -> Any:
    return lambda self, to, given, tuning: genuine(self, given, to, tuning)


def _left_out(genuine: Any) -> Any:
    return lambda self, to, given, tuning: torch.zeros_like(genuine(self, to, given, tuning))


# What of Langevin's and Hamilton's moves goes wrong.


def _way_back_without_drift(genuine: Any) -> Any:
    calls = []

    def drift(state: Any, width: Tensor) -> Tensor:
        calls.append(state)
        return genuine(state, width) if len(calls) % 2 else state.position

    return drift


def _last_half_kick_missing(genuine: Any) -> Any:
    def leapfrog(state: Any, momentum: Tensor, log_density_fn: Any, width: Tensor, n_steps: int) -> Any:
        end = genuine(state, momentum, log_density_fn, width, n_steps)
        return end._replace(momentum=end.momentum - 0.5 * width * end.state.gradient)

    return leapfrog


def _first_half_kick_backwards(genuine: Any) -> Any:
    def leapfrog(state: Any, momentum: Tensor, log_density_fn: Any, width: Tensor, n_steps: int) -> Any:
        return genuine(state, momentum - width * state.gradient, log_density_fn, width, n_steps)

    return leapfrog


# What of slices goes wrong.


def _prior_too_wide(genuine: Any) -> Any:
    def draw(distribution: Any, position: Tensor, generator: Any) -> Tensor:
        wrong = replace(distribution, standard_deviation=1.4 * distribution.standard_deviation)
        return genuine(wrong, position, generator)

    return draw


def _whole_posterior_as_likelihood(genuine: Any) -> Any:
    return lambda self, position: torch.zeros_like(genuine(self, position))


def _level_at_the_top(height: Tensor, uniform: Tensor) -> Tensor:
    return height + 0.5 * uniform.log()


def _level_lost(height: Tensor, uniform: Tensor) -> Tensor:
    return height - 50.0


def _interval_to_the_right_only(genuine: Any) -> Any:
    return lambda height_at, level, width, uniform, most: genuine(
        height_at, level, width, torch.stack([0.02 * uniform[0], uniform[1]]), 1
    )


def _interval_grown_on_the_high_side(genuine: Any) -> Any:
    return lambda height_at, level, width, uniform, most: genuine(
        height_at, level, width, torch.stack([uniform[0], 0.0 * uniform[1]]), most
    )


def _bracket_not_shrunk_towards_the_point(genuine: Any) -> Any:
    """The part of the bracket that is kept is the one that was just tried, whichever side the chain is on."""

    def shrink(state: Any, bracket: Any, *rest: Any) -> Any:
        return genuine(state, bracket._replace(low=torch.zeros_like(bracket.low)), *rest)

    return shrink


# What of blocks and combinations goes wrong.


def _stale_block(genuine: Any) -> Any:
    """All blocks of a sweep are drawn given where the sweep began."""
    memory: dict[str, Tensor] = {}

    def update(self: Any, position: Tensor, index: int, block: list[int], generator: Any) -> Tensor:
        if index == 0:
            memory["start"] = position
        fresh = genuine(self, memory["start"], index, block, generator)
        new = position.clone()
        new[..., block] = fresh[..., block]
        return new

    return update


def _block_drawn_given_its_old_self(genuine: Any) -> Any:
    def update(self: Any, position: Tensor, index: int, block: list[int], generator: Any) -> Tensor:
        new = genuine(self, position, index, block, generator)
        return 0.5 * (new + position)

    return update


def _stale_log_density(genuine: Any) -> Any:
    """What a kernel is told of the log-density is the average over chains, not its own."""

    def state_for(kernel: Any, kind: type, latest: Any, log_density_fn: Any) -> Any:
        state = genuine(kernel, kind, latest, log_density_fn)
        return state._replace(log_density=state.log_density.mean().expand_as(state.log_density))

    return state_for


def _stale_position(genuine: Any) -> Any:
    """The gradient is taken from another chain."""

    def state_for(kernel: Any, kind: type, latest: Any, log_density_fn: Any) -> Any:
        state = genuine(kernel, kind, latest, log_density_fn)
        return state._replace(log_density=state.log_density.roll(1, dims=0))

    return state_for


def _pick_where_the_chains_stand(genuine: Any) -> Any:
    """A step that is refused is tried once more, so what a kernel does depends on how it ended."""

    def step(self: Any, state: Any, log_density_fn: Any, tuning: Any, generator: Any) -> Any:
        for _ in range(3):
            new, info = genuine(self, state, log_density_fn, tuning, generator)
            done = (new.position != state.position).any(dim=-1)
            worse = new.log_density < state.log_density
            position = torch.where((done & worse).unsqueeze(-1), state.position, new.position)
            state = self.init(position, log_density_fn)
        return state, info

    return step


def _independence() -> Kernel[Any]:
    return metropolis_hastings(IndependenceProposal(PPCA_ENCODER))


def _autoregressive() -> Kernel[Any]:
    return metropolis_hastings(AutoregressiveProposal(mean=0.2, standard_deviation=1.5))


def _gaussian_gibbs() -> Kernel[Any]:
    from test_kernels import gaussian_conditionals

    return gibbs(gaussian_conditionals())


def _cycle() -> Kernel[Any]:
    return cycle([random_walk_metropolis(), mala(), elliptical_slice()])


def _mixture() -> Kernel[Any]:
    return mixture([random_walk_metropolis(), mala()])


def _hmc() -> Kernel[Any]:
    return hmc(n_leapfrog=3.0)


def _chees() -> Kernel[Any]:
    return chees(n_leapfrog=3.0)


def _slices() -> Kernel[Any]:
    return gibbs()


MUTANTS = [
    Mutant(
        "random_walk_metropolis: accepts always",
        random_walk_metropolis,
        _rule("random_walk_metropolis", accept_always),
        _exact(GAUSSIAN),
    ),
    Mutant(
        "random_walk_metropolis: ratio upside down",
        random_walk_metropolis,
        _rule("random_walk_metropolis", accept_downhill),
        _calibrated(),
    ),
    Mutant(
        "random_walk_metropolis: proposal leans, uncorrected",
        random_walk_metropolis,
        _noise("random_walk_metropolis", lambda position, noise: noise + 0.3 * position.tanh()),
        _reversible(LOG_GAMMA),
    ),
    Mutant(
        "random_walk_metropolis: step in proportion to the position",
        random_walk_metropolis,
        _noise("random_walk_metropolis", lambda position, noise: noise * position.abs()),
        _joint(step_size=0.7),
    ),
    Mutant(
        "metropolis_hastings: proposal's density left out",
        _autoregressive,
        _wrapped("metropolis_hastings.AutoregressiveProposal.log_density", _left_out),
        _exact(GAUSSIAN, step_size=0.8),
    ),
    Mutant(
        "metropolis_hastings: there and back swapped",
        _autoregressive,
        _wrapped("metropolis_hastings.AutoregressiveProposal.log_density", _swapped),
        _joint(step_size=0.8),
    ),
    Mutant(
        "metropolis_hastings: accepts always",
        metropolis_hastings,
        _rule("metropolis_hastings", accept_always),
        _calibrated(),
    ),
    Mutant(
        "metropolis_hastings, independence: density left out",
        _independence,
        _wrapped("metropolis_hastings.IndependenceProposal.log_density", _left_out),
        _exact(PPCA_POSTERIOR),
    ),
    Mutant(
        "metropolis_hastings, independence: density of the other point",
        _independence,
        _wrapped("metropolis_hastings.IndependenceProposal.log_density", _swapped),
        _exact(PPCA_POSTERIOR),
    ),
    Mutant("mala: no correction", mala, _rule("mala", no_correction), _exact(GAUSSIAN, step_size=0.7)),
    Mutant("mala: accepts always", mala, _rule("mala", accept_always), _exact(LOG_GAMMA, step_size=0.7)),
    Mutant(
        "mala: way back without drift",
        mala,
        _wrapped("mala._drift", _way_back_without_drift),
        _exact(LOG_GAMMA, step_size=0.7),
    ),
    Mutant("hmc: accepts always", _hmc, _rule("hmc", accept_always), _exact(GAUSSIAN, step_size=0.7)),
    Mutant("hmc: ratio upside down", _hmc, _rule("hmc", accept_downhill), _exact(LOG_GAMMA, step_size=0.7)),
    Mutant(
        "hmc: last half kick missing",
        _hmc,
        _wrapped("hmc.leapfrog", _last_half_kick_missing),
        _exact(PPCA_POSTERIOR),
    ),
    Mutant(
        "hmc: first half kick backwards",
        _hmc,
        _wrapped("hmc.leapfrog", _first_half_kick_backwards),
        _exact(BANANA, step_size=0.7),
    ),
    Mutant(
        "hmc: momentum too small",
        _hmc,
        _noise("hmc", lambda position, noise: 0.7 * noise),
        _exact(PPCA_POSTERIOR, step_size=0.35),
    ),
    Mutant(
        "hmc: energy without the momentum's",
        _hmc,
        _replaced("hmc.kinetic_energy", lambda momentum: torch.zeros_like(momentum[..., 0])),
        _calibrated(step_size=0.35, thin=4),
    ),
    Mutant("chees: accepts always", _chees, _rule("hmc", accept_always), _exact(LOG_GAMMA, step_size=0.7)),
    Mutant(
        "chees: last half kick missing",
        _chees,
        _wrapped("hmc.leapfrog", _last_half_kick_missing),
        _exact(PPCA_POSTERIOR),
    ),
    Mutant(
        "elliptical_slice: wrong prior precision",
        elliptical_slice,
        _wrapped("elliptical_slice.draw_for_chains", _prior_too_wide),
        _exact(PPCA_POSTERIOR),
    ),
    Mutant(
        "elliptical_slice: prior counted twice",
        elliptical_slice,
        _wrapped("distribution.DiagonalGaussian.log_density", _whole_posterior_as_likelihood),
        _joint(),
    ),
    Mutant(
        "elliptical_slice: wrong level",
        elliptical_slice,
        _replaced("elliptical_slice.slice_level", _level_at_the_top),
        _exact(LOG_GAMMA),
    ),
    Mutant(
        "elliptical_slice: accepts the first point",
        elliptical_slice,
        _replaced("elliptical_slice.slice_level", _level_lost),
        _joint(),
    ),
    Mutant(
        "gibbs: stale block",
        _gaussian_gibbs,
        _wrapped("gibbs.Gibbs._update", _stale_block),
        _exact(GAUSSIAN),
    ),
    Mutant(
        "gibbs: half of the old block kept",
        _gaussian_gibbs,
        _wrapped("gibbs.Gibbs._update", _block_drawn_given_its_old_self),
        _exact(GAUSSIAN),
    ),
    Mutant(
        "gibbs by slices: wrong level",
        _slices,
        _replaced("gibbs.slice_level", _level_at_the_top),
        _exact(GAUSSIAN),
    ),
    Mutant(
        "gibbs by slices: accepts the first point",
        _slices,
        _replaced("gibbs.slice_level", _level_lost),
        _joint(),
    ),
    Mutant(
        "gibbs by slices: interval not placed at random",
        _slices,
        _wrapped("gibbs._step_out", _interval_to_the_right_only),
        _exact(LOG_GAMMA),
    ),
    Mutant(
        "gibbs by slices: grows on one side",
        _slices,
        _wrapped("gibbs._step_out", _interval_grown_on_the_high_side),
        _exact(LOG_GAMMA, step_size=0.2),
    ),
    Mutant(
        "gibbs by slices: left part of the bracket lost",
        _slices,
        _wrapped("gibbs.shrink", _bracket_not_shrunk_towards_the_point),
        _exact(BANANA),
    ),
    Mutant(
        "cycle: log-density of another chain",
        _cycle,
        _wrapped("combination.state_for", _stale_position),
        _exact(LOG_GAMMA, step_size=0.5),
    ),
    Mutant(
        "cycle: one log-density for all chains",
        _cycle,
        _wrapped("combination.state_for", _stale_log_density),
        _exact(GAUSSIAN, step_size=0.5),
    ),
    Mutant(
        "mixture: log-density of another chain",
        _mixture,
        _wrapped("combination.state_for", _stale_position),
        _exact(GAUSSIAN, step_size=0.5),
    ),
    Mutant(
        "mixture: goes on until the chain climbs",
        _mixture,
        _wrapped("combination.Mixture.step", _pick_where_the_chains_stand),
        _exact(GAUSSIAN, step_size=0.5),
    ),
]
