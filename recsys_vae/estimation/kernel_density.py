"""The score of observations by a Gaussian kernel density estimate: empirical Bayes without a model of the prior."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from recsys_vae.errors import UserError
from recsys_vae.estimation.arguments import Numbers, finite, positive

_BLOCK_ENTRIES = 1 << 22  # distances held at once: 32 MiB


class KernelDensity:
    """``p(x)`` as the average of Gaussians about the points, one bandwidth a coordinate.

    Args:
        points: the observations, ``(n, latent)``, at least two.
        bandwidth: standard deviation of the kernel in each coordinate, or in all; ``None`` takes the rule for a
            density's first derivative under a Gaussian reference, ``std * (4 / ((latent + 4) n))^(1 / (latent + 6))``
            (Chacon, Duong & Wand 2011), which is wider than the rule for the density itself.

    Raises :class:`UserError` for points of the wrong shape, without spread, or a bandwidth that is not positive.
    """

    def __init__(self, points: Numbers, bandwidth: Numbers | None = None) -> None:
        self.points = finite("points", points)
        if self.points.ndim != 2 or self.points.shape[0] < 2:
            raise UserError(
                f"points: expected (n, latent) with n of at least 2, came {tuple(self.points.shape)}"
            )
        n, latent = self.points.shape
        if bandwidth is None:
            spread = self.points.std(dim=0)
            if not bool((spread > 0).all()):
                raise UserError("points: expected some that differ in each coordinate, came a constant")
            self.bandwidth = spread * (4.0 / ((latent + 4.0) * n)) ** (1.0 / (latent + 6.0))
        else:
            width = positive("bandwidth", bandwidth)
            if width.ndim > 1 or (width.ndim and width.shape[0] != latent):
                raise UserError(f"bandwidth: expected one number or {latent}, came {tuple(width.shape)}")
            self.bandwidth = width.expand(latent)

    def log_density(self, x: Numbers) -> Float[Tensor, "*batch"]:
        """At ``x (*batch, latent)``, nats."""
        position = self._position(x)
        log_norm = self.bandwidth.log().sum() + math.log(self.points.shape[0])
        log_norm = log_norm + 0.5 * self.points.shape[1] * math.log(2.0 * math.pi)
        values = [torch.logsumexp(log_kernel, dim=-1) - log_norm for _, log_kernel in self._blocks(position)]
        return torch.cat(values).reshape(position.shape[:-1])

    def score(self, x: Numbers) -> Float[Tensor, "*batch latent"]:
        """Gradient of the log-density: towards the points' mean, weighted by their kernels at ``x``."""
        position = self._position(x)
        rows = [
            (torch.softmax(log_kernel, dim=-1) @ self.points - block) / self.bandwidth**2
            for block, log_kernel in self._blocks(position)
        ]
        return torch.cat(rows).reshape(position.shape)

    def hessian(self, x: Numbers) -> Float[Tensor, "*batch latent latent"]:
        """Second derivatives of the log-density: the points' weighted covariance, less the kernel's own."""
        position = self._position(x)
        latent = position.shape[-1]
        scaled = self.points / self.bandwidth**2
        matrices = []
        for _, log_kernel in self._blocks(position):
            share = torch.softmax(log_kernel, dim=-1)
            centre = share @ scaled
            square = torch.einsum("bn,ni,nj->bij", share, scaled, scaled)
            matrices.append(square - centre.unsqueeze(-1) * centre.unsqueeze(-2))
        return torch.cat(matrices).reshape(*position.shape, latent) - torch.diag(1.0 / self.bandwidth**2)

    def _position(self, x: Numbers) -> Tensor:
        position = finite("x", x)
        if not position.ndim or position.shape[-1] != self.points.shape[1]:
            raise UserError(
                f"x: expected {self.points.shape[1]} coordinates on the last axis, came {tuple(position.shape)}"
            )
        return position

    def _blocks(self, position: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Some positions at a time, with the logarithm of each point's kernel there, unnormalised."""
        points = self.points / self.bandwidth
        rows = position.reshape(-1, position.shape[-1])
        for block in torch.split(rows, max(1, _BLOCK_ENTRIES // len(points))):
            distance = torch.cdist(
                block / self.bandwidth, points, compute_mode="donot_use_mm_for_euclid_dist"
            )
            yield block, -0.5 * distance.square()
