"""What a Markov kernel is: a state, one step for every chain at once, and what the step reports.

A log-density maps positions ``(*chains, latent)`` to ``(*chains,)``, in nats, up to a constant for each chain. The
leading axes are free: chains, or chains and users, whose targets then differ. No chain sees another's randomness
or state, so one that diverges hurts no other.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from recsys_vae.errors import UserError

LogDensity = Callable[[Tensor], Tensor]


class ChainState(NamedTuple):
    """Where the chains stand: all that a kernel without gradients needs for its next step."""

    position: Float[Tensor, "*chains latent"]
    log_density: Float[Tensor, "*chains"]


class GradientState(NamedTuple):
    """Where the chains stand, with the gradient of the log-density there."""

    position: Float[Tensor, "*chains latent"]
    log_density: Float[Tensor, "*chains"]
    gradient: Float[Tensor, "*chains latent"]


class Tuning(NamedTuple):
    """What warm-up learns and sampling keeps.

    ``step_size`` multiplies ``scale``, the guess of the target's standard deviation in each coordinate (the square
    root of the inverse mass matrix's diagonal); ``n_leapfrog`` is the mean length of a trajectory in steps, shared
    by all chains since they advance together.
    """

    step_size: Float[Tensor, "*chains"]
    scale: Float[Tensor, "*#chains latent"]
    n_leapfrog: float = 10.0


class StepInfo(NamedTuple):
    """What one step reports of each chain.

    ``acceptance`` is the probability with which the move was accepted; ``divergent`` marks a trajectory whose
    energy went astray; ``invalid`` a proposal whose log-density was NaN or +inf, which is rejected; ``energy`` is
    the Hamiltonian after the step where there is one, else minus the log-density, in nats. ``length_slope`` is what
    a kernel that learns the length of its trajectories reports to warm-up; ``steering`` is what warm-up compares with
    ``target_acceptance`` in place of ``acceptance``, where kernels with targets of their own are combined.
    """

    acceptance: Float[Tensor, "*chains"]
    accepted: Bool[Tensor, "*chains"]
    divergent: Bool[Tensor, "*chains"]
    invalid: Bool[Tensor, "*chains"]
    energy: Float[Tensor, "*chains"]
    length_slope: Float[Tensor, "*chains"] | None = None
    steering: Float[Tensor, "*chains"] | None = None


S = TypeVar("S", ChainState, GradientState)


class Kernel(ABC, Generic[S]):
    """A Markov kernel over any log-density: ``init`` makes a state, ``step`` advances every chain by one step.

    Kernels hold settings and no state. ``target_acceptance`` is the mean acceptance that warm-up steers the step
    size to; none for a kernel without a step size. ``max_leapfrog`` bounds trajectories whose length warm-up learns;
    none for all other kernels.
    """

    target_acceptance: float | None = None
    max_leapfrog: int | None = None

    @abstractmethod
    def init(self, position: Float[Tensor, "*chains latent"], log_density_fn: LogDensity) -> S:
        """Evaluate what the state needs at ``position``."""

    @abstractmethod
    def step(
        self, state: S, log_density_fn: LogDensity, tuning: Tuning, generator: torch.Generator | None
    ) -> tuple[S, StepInfo]:
        """Advance every chain; the input state is left untouched."""

    def initial_step_size(self, latent_dim: int) -> float:
        """A step size to begin with, in units of ``Tuning.scale``."""
        return 1.0

    def default_tuning(
        self, position: Float[Tensor, "*chains latent"], step_size: float | None = None
    ) -> Tuning:
        """Tuning without warm-up: one step size for all chains, unit scale."""
        size = self.initial_step_size(position.shape[-1]) if step_size is None else step_size
        return Tuning(
            step_size=torch.full(position.shape[:-1], size, dtype=position.dtype, device=position.device),
            scale=torch.ones(position.shape[-1], dtype=position.dtype, device=position.device),
        )


def is_invalid(log_density: Float[Tensor, "*chains"]) -> Bool[Tensor, "*chains"]:
    """NaN or +inf: no log-density. (-inf is one: an impossible place.)"""
    return log_density.isnan() | (log_density == math.inf)


def metropolis_accept(
    state: S,
    moved: S,
    log_ratio: Float[Tensor, "*chains"],
    generator: torch.Generator | None,
) -> tuple[S, Float[Tensor, "*chains"], Bool[Tensor, "*chains"]]:
    """Move each chain with probability ``min(1, exp(log_ratio))``; NaN never moves.

    Returns the new state, the probabilities and who moved.
    """
    acceptance = log_ratio.clamp(max=0.0).exp().nan_to_num(nan=0.0)
    uniform = torch.rand(
        acceptance.shape, generator=generator, device=acceptance.device, dtype=acceptance.dtype
    )
    accepted = uniform < acceptance
    fields: Any = (
        torch.where(accepted.unsqueeze(-1) if new.ndim > accepted.ndim else accepted, new, old)
        for new, old in zip(moved, state, strict=True)
    )
    return type(state)(*fields), acceptance, accepted


def standard_normal_like(position: Tensor, generator: torch.Generator | None) -> Tensor:
    """Independent standard normal numbers of ``position``'s shape, type and device."""
    return torch.randn(position.shape, generator=generator, device=position.device, dtype=position.dtype)


def check_acceptance(target_acceptance: float) -> None:
    """Raise :class:`UserError` unless the target lies strictly between 0 and 1."""
    if not 0.0 < target_acceptance < 1.0:
        raise UserError(f"target_acceptance: expected a number in (0, 1), came {target_acceptance!r}")
