"""Random-walk Metropolis (Metropolis et al. 1953): a symmetric Gaussian step, accepted by the ratio of densities."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from recsys_vae.samplers.kernel import (
    ChainState,
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
class RandomWalkMetropolis(Kernel[ChainState]):
    """``z* = z + step_size * scale * noise``, accepted with probability ``min(1, p(z*) / p(z))``.

    Args:
        target_acceptance: what warm-up steers to; 0.234 is best in many dimensions (Roberts et al. 1997).
    """

    target_acceptance: float = 0.234

    def __post_init__(self) -> None:
        check_acceptance(self.target_acceptance)

    def init(self, position: Float[Tensor, "*chains latent"], log_density_fn: LogDensity) -> ChainState:
        """The state at ``position``."""
        return ChainState(position, log_density_fn(position))

    def step(
        self, state: ChainState, log_density_fn: LogDensity, tuning: Tuning, generator: torch.Generator | None
    ) -> tuple[ChainState, StepInfo]:
        """One evaluation of the log-density."""
        noise = standard_normal_like(state.position, generator)
        moved = self.init(
            state.position + tuning.step_size.unsqueeze(-1) * tuning.scale * noise, log_density_fn
        )
        invalid = is_invalid(moved.log_density)
        log_ratio = (moved.log_density - state.log_density).masked_fill(invalid, -torch.inf)
        new, acceptance, accepted = metropolis_accept(state, moved, log_ratio, generator)
        info = StepInfo(acceptance, accepted, torch.zeros_like(accepted), invalid, -new.log_density)
        return new, info

    def initial_step_size(self, latent_dim: int) -> float:
        """``2.38 / sqrt(latent_dim)``: optimal on a Gaussian (Roberts et al. 1997)."""
        return float(2.38 / latent_dim**0.5)
