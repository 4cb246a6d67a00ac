"""Hamiltonian Monte Carlo (Duane et al. 1987; Neal 2011), and the variant that learns its trajectories' length."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from recsys_vae.errors import UserError
from recsys_vae.samplers.density import value_and_gradient
from recsys_vae.samplers.kernel import (
    GradientState,
    Kernel,
    LogDensity,
    StepInfo,
    Tuning,
    check_acceptance,
    is_invalid,
    metropolis_accept,
    standard_normal_like,
)

# A trajectory whose energy error exceeds this has left the region where the integrator can be trusted (Stan's value).
_DIVERGENCE = 1000.0


class Trajectory(NamedTuple):
    """Where a trajectory ends, and with which momentum (in units of ``scale``: standard normal at the start)."""

    state: GradientState
    momentum: Float[Tensor, "*chains latent"]


def leapfrog(
    state: GradientState,
    momentum: Float[Tensor, "*chains latent"],
    log_density_fn: LogDensity,
    width: Float[Tensor, "*#chains latent"],
    n_steps: int,
) -> Trajectory:
    """``n_steps`` leapfrog steps of ``width`` (step size times scale): reversible, keeps volume, error O(width^2)."""
    position, log_density, gradient = state
    momentum = torch.addcmul(momentum, width, gradient, value=0.5)
    for step in range(n_steps):
        position = torch.addcmul(position, width, momentum)
        log_density, gradient = value_and_gradient(log_density_fn, position)
        # The half kicks of neighbouring steps are one whole kick.
        momentum = torch.addcmul(momentum, width, gradient, value=0.5 if step == n_steps - 1 else 1.0)
    return Trajectory(GradientState(position, log_density, gradient), momentum)


def kinetic_energy(momentum: Float[Tensor, "*chains latent"]) -> Float[Tensor, "*chains"]:
    """Half the squared length, in nats."""
    return 0.5 * momentum.square().sum(dim=-1)


@dataclass(frozen=True)
class HMC(Kernel[GradientState]):
    """Draw a momentum, follow Hamilton's equations by leapfrog, accept by the change of energy.

    Args:
        n_leapfrog: mean number of leapfrog steps in a trajectory.
        jitter: trajectories have between ``1 - jitter`` and ``1 + jitter`` times as many, at random, the same for
            all chains: no direction of the target can be in step with them.
        target_acceptance: what warm-up steers to.
    """

    n_leapfrog: float | int = 10.0
    jitter: float = 0.5
    target_acceptance: float = 0.8

    def __post_init__(self) -> None:
        if not 1.0 <= self.n_leapfrog < math.inf:
            raise UserError(f"n_leapfrog: expected a number of at least 1, came {self.n_leapfrog!r}")
        if not 0.0 <= self.jitter <= 1.0:
            raise UserError(f"jitter: expected a number in [0, 1], came {self.jitter!r}")
        check_acceptance(self.target_acceptance)

    def init(self, position: Float[Tensor, "*chains latent"], log_density_fn: LogDensity) -> GradientState:
        """The state at ``position``."""
        return GradientState(position, *value_and_gradient(log_density_fn, position))

    def default_tuning(
        self, position: Float[Tensor, "*chains latent"], step_size: float | None = None
    ) -> Tuning:
        """Tuning without warm-up."""
        return super().default_tuning(position, step_size)._replace(n_leapfrog=float(self.n_leapfrog))

    def step(
        self,
        state: GradientState,
        log_density_fn: LogDensity,
        tuning: Tuning,
        generator: torch.Generator | None,
    ) -> tuple[GradientState, StepInfo]:
        """One trajectory: as many evaluations of the log-density and its gradient as it has leapfrog steps."""
        n_steps = self._draw_length(tuning.n_leapfrog, generator)
        return self._follow(state, log_density_fn, tuning, n_steps, generator)[:2]

    def _follow(
        self,
        state: GradientState,
        log_density_fn: LogDensity,
        tuning: Tuning,
        n_steps: int,
        generator: torch.Generator | None,
    ) -> tuple[GradientState, StepInfo, Trajectory]:
        momentum = standard_normal_like(state.position, generator)
        width = tuning.step_size.unsqueeze(-1) * tuning.scale
        end = leapfrog(state, momentum, log_density_fn, width, n_steps)
        invalid = is_invalid(end.state.log_density)
        initial_energy = kinetic_energy(momentum) - state.log_density
        energy = kinetic_energy(end.momentum) - end.state.log_density
        log_ratio = (initial_energy - energy).masked_fill(invalid, -torch.inf)
        new, acceptance, accepted = metropolis_accept(state, end.state, log_ratio, generator)
        divergent = ~(log_ratio > -_DIVERGENCE)
        info = StepInfo(
            acceptance, accepted, divergent, invalid, torch.where(accepted, energy, initial_energy)
        )
        return new, info, end

    def _draw_length(self, n_leapfrog: float, generator: torch.Generator | None) -> int:
        device = "cpu" if generator is None else generator.device
        uniform = float(torch.rand((), generator=generator, device=device))
        return max(1, round(n_leapfrog * (1.0 + self.jitter * (2.0 * uniform - 1.0))))

    def initial_step_size(self, latent_dim: int) -> float:
        """``latent_dim^(-1/4)``: the optimal rate (Beskos et al. 2013)."""
        return float(latent_dim**-0.25)


@dataclass(frozen=True)
class ChEES(HMC):
    """HMC whose warm-up learns how long trajectories should be (Hoffman, Radul & Sountsov 2021, AISTATS).

    The change in the estimator of the expected square criterion, ``E[(|z' - m|^2 - |z - m|^2)^2] / 4``, is climbed
    by stochastic gradients over all chains. Its length is counted in leapfrog steps, so that chains with step
    sizes of their own stay abreast.

    Args:
        n_leapfrog: mean number of leapfrog steps at the start of warm-up.
        jitter: as for :class:`HMC`.
        target_acceptance: 0.651 is the paper's.
        max_leapfrog: no trajectory is longer.
    """

    n_leapfrog: float | int = 5.0
    target_acceptance: float = 0.651
    max_leapfrog: int | None = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_leapfrog is not None and self.max_leapfrog < 1:
            raise UserError(f"max_leapfrog: expected at least 1, came {self.max_leapfrog!r}")

    def step(
        self,
        state: GradientState,
        log_density_fn: LogDensity,
        tuning: Tuning,
        generator: torch.Generator | None,
    ) -> tuple[GradientState, StepInfo]:
        """One trajectory; reports the slope of the criterion in the logarithm of its length, which warm-up climbs."""
        n_steps = min(self._draw_length(tuning.n_leapfrog, generator), self.max_leapfrog or 1000)
        new, info, end = self._follow(state, log_density_fn, tuning, n_steps, generator)
        # Distances count in units of scale; the chains' own mean stands in for the target's.
        start_offset = (state.position - state.position.mean(dim=0)) / tuning.scale
        end_position = torch.where(info.divergent.unsqueeze(-1), state.position, end.state.position)
        end_offset = (end_position - end_position.mean(dim=0)) / tuning.scale
        change = end_offset.square().sum(dim=-1) - start_offset.square().sum(dim=-1)
        speed = (end_offset * end.momentum).sum(dim=-1)
        slope = change * speed * tuning.step_size * n_steps
        return new, info._replace(length_slope=torch.where(info.divergent, 0.0, slope * info.acceptance))
