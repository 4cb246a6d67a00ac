"""Distributions to draw from and to weigh against: proposals, starting points, bases of annealing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class Distribution(Protocol):
    """What can be drawn from and has a normalised log-density. Its batch axes are those of the chains or users."""

    def draw(self, n_draws: int, generator: torch.Generator | None) -> Float[Tensor, "draws *batch latent"]:
        """Independent draws."""
        ...

    def log_density(self, position: Float[Tensor, "*draws_batch latent"]) -> Float[Tensor, "*draws_batch"]:
        """Normalised log-density in nats; leading axes broadcast against the batch."""
        ...


@dataclass(frozen=True)
class DiagonalGaussian:
    """``N(mean, diag(standard_deviation^2))``, one for each member of the batch."""

    mean: Float[Tensor, "*batch latent"]
    standard_deviation: Float[Tensor, "*batch latent"]

    def draw(self, n_draws: int, generator: torch.Generator | None) -> Float[Tensor, "draws *batch latent"]:
        """Independent draws."""
        noise = _standard_normal(n_draws, self.mean, generator)
        return torch.addcmul(self.mean, self.standard_deviation, noise)

    def log_density(self, position: Float[Tensor, "*draws_batch latent"]) -> Float[Tensor, "*draws_batch"]:
        """Normalised, in nats."""
        standardised = (position - self.mean) / self.standard_deviation
        log_volume = self.standard_deviation.log().sum(dim=-1)
        return _standard_log_density(standardised) - log_volume


@dataclass(frozen=True)
class FullGaussian:
    """``N(mean, scale_tril scale_tril')``, one for each member of the batch."""

    mean: Float[Tensor, "*batch latent"]
    scale_tril: Float[Tensor, "*batch latent latent"]

    def draw(self, n_draws: int, generator: torch.Generator | None) -> Float[Tensor, "draws *batch latent"]:
        """Independent draws."""
        noise = _standard_normal(n_draws, self.mean, generator)
        # The draws are the columns of one product a member; a product a draw would copy the factor for each.
        return self.mean + (self.scale_tril @ noise.movedim(0, -1)).movedim(-1, 0)

    def log_density(self, position: Float[Tensor, "*draws_batch latent"]) -> Float[Tensor, "*draws_batch"]:
        """Normalised, in nats."""
        centred = (position - self.mean).unsqueeze(-1)
        standardised = torch.linalg.solve_triangular(self.scale_tril, centred, upper=False).squeeze(-1)
        log_volume = self.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)
        return _standard_log_density(standardised) - log_volume


def _standard_normal(n_draws: int, like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn((n_draws, *like.shape), generator=generator, device=like.device, dtype=like.dtype)


def _standard_log_density(standardised: Tensor) -> Tensor:
    return -0.5 * (standardised.square().sum(dim=-1) + standardised.shape[-1] * math.log(2.0 * math.pi))
