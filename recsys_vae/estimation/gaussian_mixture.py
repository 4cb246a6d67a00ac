"""Mixtures of Gaussians: the marginal law of observations under a mixture prior, with its score in closed form."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from recsys_vae.errors import UserError
from recsys_vae.estimation.arguments import Numbers, finite, positive


class GaussianMixture:
    """``p(x) = sum_k weights_k N(x; means_k, covariances_k)`` in any dimension.

    A prior on what noise hides, or the law of the noisy observations (:meth:`convolved`), whose score and second
    derivatives are what Tweedie's formula asks for.

    >>> prior = GaussianMixture([0.5, 0.5], [[-2.0], [2.0]], [[[0.1]], [[0.1]]])
    >>> prior.convolved([[1.0]]).score([[0.0]])
    tensor([[0.]], dtype=torch.float64)

    Args:
        weights: ``(components,)``, positive; they are divided by their sum.
        means: ``(components, latent)``.
        covariances: ``(components, latent, latent)``.

    Raises :class:`UserError` for shapes that do not fit and matrices that are not covariances.
    """

    def __init__(self, weights: Numbers, means: Numbers, covariances: Numbers) -> None:
        self.weights = positive("weights", weights)
        self.weights = self.weights / self.weights.sum()
        self.means = finite("means", means)
        self.covariances = finite("covariances", covariances)
        if self.means.ndim != 2 or self.weights.shape != self.means.shape[:1]:
            raise UserError(
                f"means: expected (components, latent) with {tuple(self.weights.shape)} components, "
                f"came {tuple(self.means.shape)}"
            )
        expected = (*self.means.shape, self.means.shape[1])
        if self.covariances.shape != expected:
            raise UserError(f"covariances: expected {expected}, came {tuple(self.covariances.shape)}")
        factor, wrong = torch.linalg.cholesky_ex(self.covariances)
        if wrong.any() or not torch.allclose(self.covariances, self.covariances.mT, rtol=1e-10, atol=0.0):
            raise UserError(
                "covariances: expected symmetric positive definite matrices, came one that is not"
            )
        self.precisions = torch.cholesky_inverse(factor)
        self._log_volume = factor.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)

    def convolved(self, covariance: Numbers) -> GaussianMixture:
        """The law of a draw plus Gaussian noise of this covariance matrix ``(latent, latent)``."""
        return GaussianMixture(self.weights, self.means, self.covariances + finite("covariance", covariance))

    def log_density(self, x: Numbers) -> Float[Tensor, "*batch"]:
        """At ``x (*batch, latent)``, nats."""
        return torch.logsumexp(self._joint(self._position(x))[0], dim=-1)

    def score(self, x: Numbers) -> Float[Tensor, "*batch latent"]:
        """Gradient of the log-density: of each component's, averaged by its share at ``x``."""
        log_joint, pulls = self._joint(self._position(x))
        return (torch.softmax(log_joint, dim=-1).unsqueeze(-1) * pulls).sum(dim=-2)

    def hessian(self, x: Numbers) -> Float[Tensor, "*batch latent latent"]:
        """Second derivatives of the log-density."""
        log_joint, pulls = self._joint(self._position(x))
        share = torch.softmax(log_joint, dim=-1)
        score = (share.unsqueeze(-1) * pulls).sum(dim=-2, keepdim=True)
        off = share.sqrt().unsqueeze(-1) * (pulls - score)
        between: Tensor = off.mT @ off
        return between - torch.einsum("...k,kij->...ij", share, self.precisions)

    def sample(self, n_draws: int, generator: torch.Generator | None = None) -> Float[Tensor, "draws latent"]:
        """Independent draws."""
        component = torch.multinomial(self.weights, n_draws, replacement=True, generator=generator)
        noise = torch.randn(n_draws, self.means.shape[1], 1, dtype=torch.float64, generator=generator)
        factor = torch.linalg.cholesky(self.covariances)[component]
        draws: Tensor = self.means[component] + (factor @ noise).squeeze(-1)
        return draws

    def _position(self, x: Numbers) -> Tensor:
        position = finite("x", x)
        if not position.ndim or position.shape[-1] != self.means.shape[1]:
            raise UserError(
                f"x: expected {self.means.shape[1]} coordinates on the last axis, came {tuple(position.shape)}"
            )
        return position

    def _joint(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """Log of weight times density of each component, and each component's own score."""
        off = self.means - position.unsqueeze(-2)
        pulls = torch.einsum("kij,...kj->...ki", self.precisions, off)
        distance = (off * pulls).sum(dim=-1) + self.means.shape[1] * math.log(2.0 * math.pi)
        return self.weights.log() - self._log_volume - 0.5 * distance, pulls
