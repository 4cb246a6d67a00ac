"""Metropolis-Hastings (Hastings 1970) with any proposal: the densities of the way there and back enter the ratio."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from recsys_vae.errors import UserError
from recsys_vae.samplers.arguments import Distribution
from recsys_vae.samplers.chain_draws import draw_for_chains
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


@runtime_checkable
class Proposal(Protocol):
    """Where a chain might go next, and how likely: ``tuning`` is the kernel's, for proposals that have a width."""

    def draw(self, position: Tensor, tuning: Tuning, generator: torch.Generator | None) -> Tensor:
        """A proposal for every chain: positions ``(*chains, latent)`` to the same shape."""
        ...

    def log_density(self, to: Tensor, given: Tensor, tuning: Tuning) -> Tensor:
        """Log-density ``(*chains,)`` of proposing ``to`` from ``given``: nats, up to one constant for each chain."""
        ...


@dataclass(frozen=True)
class RandomWalkProposal:
    """``z* ~ N(z, (step_size * scale)^2)``: symmetric, so its density cancels."""

    def draw(
        self, position: Float[Tensor, "*chains latent"], tuning: Tuning, generator: torch.Generator | None
    ) -> Float[Tensor, "*chains latent"]:
        """A step from ``position``."""
        width = tuning.step_size.unsqueeze(-1) * tuning.scale
        return torch.addcmul(position, width, standard_normal_like(position, generator))

    def log_density(
        self, to: Float[Tensor, "*chains latent"], given: Float[Tensor, "*chains latent"], tuning: Tuning
    ) -> Float[Tensor, "*chains"]:
        """In nats, up to a constant."""
        width = tuning.step_size.unsqueeze(-1) * tuning.scale
        return -0.5 * ((to - given) / width).square().sum(dim=-1)


@dataclass(frozen=True)
class AutoregressiveProposal:
    """``z* ~ N(m + r (z - m), (1 - r^2) s^2)`` with ``r = 1 / sqrt(1 + step_size^2)``.

    The preconditioned Crank-Nicolson step (Neal 1998; Cotter et al. 2013). It is reversible with respect to
    ``N(m, s^2)``, so with the prior's ``m`` and ``s`` only the likelihood decides, and acceptance does not fall with
    the number of latent dimensions. ``Tuning.scale`` has no part in it.

    Args:
        mean: ``m``, broadcast to positions.
        standard_deviation: ``s``, broadcast to positions.
    """

    mean: float | Float[Tensor, "*#chains latent"] = 0.0
    standard_deviation: float | Float[Tensor, "*#chains latent"] = 1.0

    def draw(
        self, position: Float[Tensor, "*chains latent"], tuning: Tuning, generator: torch.Generator | None
    ) -> Float[Tensor, "*chains latent"]:
        """A step from ``position``, drawn towards the mean."""
        contraction, width = self._step(tuning)
        noise = standard_normal_like(position, generator)
        return self.mean + contraction * (position - self.mean) + width * noise

    def log_density(
        self, to: Float[Tensor, "*chains latent"], given: Float[Tensor, "*chains latent"], tuning: Tuning
    ) -> Float[Tensor, "*chains"]:
        """In nats, up to a constant."""
        contraction, width = self._step(tuning)
        expected = self.mean + contraction * (given - self.mean)
        return -0.5 * ((to - expected) / width).square().sum(dim=-1)

    def _step(self, tuning: Tuning) -> tuple[Tensor, Tensor]:
        step_size = tuning.step_size.unsqueeze(-1)
        contraction = (1.0 + step_size.square()).rsqrt()
        return contraction, contraction * step_size * self.standard_deviation


@dataclass(frozen=True)
class IndependenceProposal:
    """Proposals that do not look at where the chain is, for instance an encoder's Gaussian for each user.

    Args:
        distribution: its batch axes broadcast to the trailing axes of the chains, the targets'. Tails lighter than
            the target's make chains stick.
    """

    distribution: Distribution

    def draw(
        self, position: Float[Tensor, "*chains latent"], tuning: Tuning, generator: torch.Generator | None
    ) -> Float[Tensor, "*chains latent"]:
        """A draw of its own for every chain. Raises :class:`UserError` when the batch does not fit ``position``."""
        return draw_for_chains(self.distribution, position, generator)

    def log_density(
        self, to: Float[Tensor, "*chains latent"], given: Float[Tensor, "*chains latent"], tuning: Tuning
    ) -> Float[Tensor, "*chains"]:
        """In nats, normalised as the distribution is."""
        return self.distribution.log_density(to)


@dataclass(frozen=True)
class MetropolisHastings(Kernel[ChainState]):
    """Accept ``z* ~ q(. | z)`` with probability ``min(1, p(z*) q(z | z*) / (p(z) q(z* | z)))``.

    Args:
        proposal: ``q``; a Gaussian random walk unless given.
        target_acceptance: what warm-up steers the step size to; none leaves it alone, as does an
            :class:`IndependenceProposal`, which has no step size.
    """

    proposal: Proposal = field(default_factory=RandomWalkProposal)
    target_acceptance: float | None = 0.234

    def __post_init__(self) -> None:
        if isinstance(self.proposal, IndependenceProposal):
            object.__setattr__(self, "target_acceptance", None)
        if self.target_acceptance is not None:
            check_acceptance(self.target_acceptance)

    def init(self, position: Float[Tensor, "*chains latent"], log_density_fn: LogDensity) -> ChainState:
        """The state at ``position``."""
        return ChainState(position, log_density_fn(position))

    def step(
        self, state: ChainState, log_density_fn: LogDensity, tuning: Tuning, generator: torch.Generator | None
    ) -> tuple[ChainState, StepInfo]:
        """One evaluation of the log-density, two of the proposal's.

        Raises:
            UserError: when the proposal has another shape than the positions.
        """
        position = self.proposal.draw(state.position, tuning, generator)
        if position.shape != state.position.shape:
            raise UserError(
                f"proposal: expected draws of shape {tuple(state.position.shape)}, came {tuple(position.shape)}"
            )
        moved = self.init(position, log_density_fn)
        log_there = self.proposal.log_density(position, state.position, tuning)
        log_back = self.proposal.log_density(state.position, position, tuning)
        invalid = is_invalid(moved.log_density)
        log_ratio = moved.log_density - state.log_density + log_back - log_there
        new, acceptance, accepted = metropolis_accept(
            state, moved, log_ratio.masked_fill(invalid, -torch.inf), generator
        )
        return new, StepInfo(acceptance, accepted, torch.zeros_like(accepted), invalid, -new.log_density)

    def initial_step_size(self, latent_dim: int) -> float:
        """``2.38 / sqrt(latent_dim)``: optimal for a random walk on a Gaussian (Roberts et al. 1997)."""
        return float(2.38 / latent_dim**0.5)
