"""Targets that can be drawn from exactly, to start chains at and to compare their ends with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from recsys_vae.samplers import DiagonalGaussian, FullGaussian

DTYPE = torch.float64


@dataclass(frozen=True)
class ExactTarget:
    """A log-density, up to a constant, of positions ``(..., 2)``, and exact draws ``(n, 2)``."""

    name: str
    log_density: Callable[[Tensor], Tensor]
    draw: Callable[[int, torch.Generator], Tensor]

    def __str__(self) -> str:
        return self.name


def _gaussian() -> ExactTarget:
    mean = torch.tensor([1.0, -0.5], dtype=DTYPE)
    tril = torch.tensor([[1.2, 0.0], [0.9, 0.6]], dtype=DTYPE)
    precision = (tril @ tril.T).inverse()

    def log_density(z: Tensor) -> Tensor:
        centred = z - mean
        return -0.5 * (centred @ precision * centred).sum(dim=-1)

    def draw(n: int, generator: torch.Generator) -> Tensor:
        return mean + torch.randn(n, 2, generator=generator, dtype=DTYPE) @ tril.T

    return ExactTarget("correlated_gaussian", log_density, draw)


def _log_gamma() -> ExactTarget:
    shape = torch.tensor([0.8, 3.0], dtype=DTYPE)
    return ExactTarget(
        "log_gamma",
        lambda z: (shape * z - z.exp()).sum(dim=-1),
        lambda n, generator: torch._standard_gamma(shape.expand(n, 2), generator=generator).log(),
    )


def _funnel() -> ExactTarget:
    def log_density(z: Tensor) -> Tensor:
        v, x = z.unbind(-1)
        return -0.5 * v.square() - 0.5 * x.square() * (-v).exp() - 0.5 * v

    def draw(n: int, generator: torch.Generator) -> Tensor:
        v, noise = torch.randn(n, 2, generator=generator, dtype=DTYPE).unbind(-1)
        return torch.stack([v, noise * (0.5 * v).exp()], dim=-1)

    return ExactTarget("funnel", log_density, draw)


def _banana() -> ExactTarget:
    def log_density(z: Tensor) -> Tensor:
        first, second = z.unbind(-1)
        return -0.5 * first.square() - 0.5 * ((second - 0.7 * (first.square() - 1.0)) / 0.7).square()

    def draw(n: int, generator: torch.Generator) -> Tensor:
        first, noise = torch.randn(n, 2, generator=generator, dtype=DTYPE).unbind(-1)
        return torch.stack([first, 0.7 * (first.square() - 1.0) + 0.7 * noise], dim=-1)

    return ExactTarget("banana", log_density, draw)


@dataclass(frozen=True)
class LinearGaussian:
    """``z ~ N(0, I)``, ``x | z ~ N(weight z + mean, noise^2 I)``: probabilistic principal components."""

    weight: Tensor
    mean: Tensor
    noise: float

    def simulate(self, z: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(*z.shape[:-1], len(self.mean), generator=generator, dtype=z.dtype)
        return z @ self.weight.T + self.mean + self.noise * noise

    def log_joint(self, z: Tensor, x: Tensor) -> Tensor:
        residual = (x - z @ self.weight.T - self.mean) / self.noise
        return -0.5 * z.square().sum(dim=-1) - 0.5 * residual.square().sum(dim=-1)

    def posterior(self, x: Tensor) -> FullGaussian:
        precision = (
            torch.eye(self.weight.shape[1], dtype=x.dtype) + self.weight.T @ self.weight / self.noise**2
        )
        covariance = precision.inverse()
        return FullGaussian(
            (x - self.mean) @ self.weight @ covariance / self.noise**2,
            torch.linalg.cholesky(covariance).expand(*x.shape[:-1], -1, -1),
        )


PPCA = LinearGaussian(
    weight=torch.tensor([[1.0, 0.3], [-0.5, 0.8], [0.2, 0.6], [0.7, -0.4]], dtype=DTYPE),
    mean=torch.tensor([0.5, -0.2, 0.1, 0.0], dtype=DTYPE),
    noise=0.8,
)
PPCA_ENCODER = DiagonalGaussian(torch.zeros(2, dtype=DTYPE), torch.full((2,), 1.3, dtype=DTYPE))


def _ppca_posterior() -> ExactTarget:
    x = torch.tensor([1.5, -0.6, 1.0, 0.9], dtype=DTYPE)
    law = PPCA.posterior(x)
    return ExactTarget("ppca_posterior", lambda z: PPCA.log_joint(z, x), lambda n, g: law.draw(n, g))


GAUSSIAN, LOG_GAMMA, FUNNEL, BANANA, PPCA_POSTERIOR = TARGETS = (
    _gaussian(),
    _log_gamma(),
    _funnel(),
    _banana(),
    _ppca_posterior(),
)
