"""Elliptical slice sampling (Murray, Adams & MacKay 2010): a Gaussian prior, any likelihood, nothing to tune."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from recsys_vae.samplers.bracket import MAX_DRAWS, Bracket, shrink, slice_level, uniforms
from recsys_vae.samplers.chain_draws import draw_for_chains
from recsys_vae.samplers.distribution import DiagonalGaussian, FullGaussian
from recsys_vae.samplers.kernel import ChainState, Kernel, LogDensity, StepInfo, Tuning


@dataclass(frozen=True)
class EllipticalSlice(Kernel[ChainState]):
    """A point above a random level of the likelihood, on the ellipse through ``z`` and a draw from the prior.

    ``log_density_fn`` is the whole posterior, whose prior is divided out again here. The target is right for any
    prior; far from the true one the moves are small.

    Args:
        prior: its batch axes broadcast to the trailing axes of the chains; none is the standard normal.
    """

    prior: DiagonalGaussian | FullGaussian | None = None

    def init(self, position: Float[Tensor, "*chains latent"], log_density_fn: LogDensity) -> ChainState:
        """The state at ``position``."""
        return ChainState(position, log_density_fn(position))

    def step(
        self, state: ChainState, log_density_fn: LogDensity, tuning: Tuning, generator: torch.Generator | None
    ) -> tuple[ChainState, StepInfo]:
        """As many evaluations of the log-density as the slowest chain needs, at most 61; it stays if it needs more.

        Raises:
            UserError: when the prior's batch does not fit the positions.
        """
        prior = self._prior(state.position)
        other = draw_for_chains(prior, state.position, generator) - prior.mean
        offset = state.position - prior.mean
        uniform = uniforms(MAX_DRAWS + 2, state.position, generator)

        level = slice_level(state.log_density - prior.log_density(state.position), uniform[0])
        first = 2.0 * math.pi * uniform[1]
        # The whole ellipse, cut open at the point that is tried first.
        bracket = Bracket(first - 2.0 * math.pi, first, first)
        position_at = partial(_on_ellipse, prior.mean, offset, other)
        move = shrink(state, bracket, level, uniform[2:], position_at, log_density_fn, prior.log_density)
        return move.state, move.info()

    def _prior(self, position: Tensor) -> DiagonalGaussian | FullGaussian:
        if self.prior is not None:
            return self.prior
        zeros = torch.zeros_like(position[(0,) * (position.ndim - 1)])
        return DiagonalGaussian(zeros, torch.ones_like(zeros))


def _on_ellipse(centre: Tensor, offset: Tensor, other: Tensor, angle: Tensor) -> Tensor:
    turned = angle.unsqueeze(-1)
    return centre + offset * turned.cos() + other * turned.sin()
