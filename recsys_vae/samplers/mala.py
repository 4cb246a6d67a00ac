"""The Metropolis-adjusted Langevin algorithm (Roberts & Tweedie 1996): a random walk that leans uphill."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

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


@dataclass(frozen=True)
class MALA(Kernel[GradientState]):
    """``z* ~ N(z + e^2/2 grad log p(z), e^2)`` with ``e = step_size * scale``, accepted by Metropolis-Hastings.

    The proposal is not symmetric: its two densities enter the ratio.

    Args:
        target_acceptance: what warm-up steers to; 0.574 is best in many dimensions (Roberts & Rosenthal 1998).
    """

    target_acceptance: float = 0.574

    def __post_init__(self) -> None:
        check_acceptance(self.target_acceptance)

    def init(self, position: Float[Tensor, "*chains latent"], log_density_fn: LogDensity) -> GradientState:
        """The state at ``position``."""
        return GradientState(position, *value_and_gradient(log_density_fn, position))

    def step(
        self,
        state: GradientState,
        log_density_fn: LogDensity,
        tuning: Tuning,
        generator: torch.Generator | None,
    ) -> tuple[GradientState, StepInfo]:
        """One evaluation of the log-density and its gradient."""
        width = tuning.step_size.unsqueeze(-1) * tuning.scale
        noise = standard_normal_like(state.position, generator)
        moved = self.init(_drift(state, width) + width * noise, log_density_fn)
        invalid = is_invalid(moved.log_density)
        back = (state.position - _drift(moved, width)) / width
        log_correction = 0.5 * (noise.square().sum(dim=-1) - back.square().sum(dim=-1))
        log_ratio = moved.log_density - state.log_density + log_correction
        new, acceptance, accepted = metropolis_accept(
            state, moved, log_ratio.masked_fill(invalid, -torch.inf), generator
        )
        return new, StepInfo(acceptance, accepted, torch.zeros_like(accepted), invalid, -new.log_density)

    def initial_step_size(self, latent_dim: int) -> float:
        """``latent_dim^(-1/6)``: the optimal rate (Roberts & Rosenthal 1998)."""
        return float(latent_dim ** (-1 / 6))


def _drift(state: GradientState, width: Tensor) -> Tensor:
    return torch.addcmul(state.position, width.square(), state.gradient, value=0.5)
