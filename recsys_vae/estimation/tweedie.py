"""Tweedie's formula: the posterior mean of what Gaussian noise hides, from the observations' own density.

With ``x | mu ~ N(mu, covariance)`` and any prior on mu (Robbins 1956, who credits Tweedie; Efron 2011, eq. 1.4),
``E[mu | x] = x + S grad log p(x)`` and ``Cov[mu | x] = S + S hess log p(x) S``, S being the covariance.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from recsys_vae.errors import UserError
from recsys_vae.estimation.arguments import Numbers, floating


def tweedie_mean(x: Numbers, score: Numbers, covariance: Numbers) -> Float[Tensor, ...]:
    """``E[mu | x]``, of the shape of ``x`` and in its precision; gradients flow through it.

    Args:
        x: what was observed, ``(*batch, latent)``. Under a scalar ``covariance`` any shape will do, also a number.
        score: gradient of the marginal log-density of the observations at ``x``, of the same shape.
        covariance: of the noise: its variance where it is the same for every coordinate; one variance a coordinate
            ``(latent,)``; or a matrix ``(latent, latent)``.

    Raises :class:`UserError` for what is no finite number, shapes that do not fit, a variance that is not positive, or
    a matrix that is not a covariance.
    """
    position, gradient, noise = _checked(x, score, covariance, "score")
    if noise.ndim == 2:
        return position + gradient @ noise  # symmetric
    return position + noise * gradient


def tweedie_covariance(hessian: Numbers, covariance: Numbers) -> Float[Tensor, "*batch latent latent"]:
    """``Cov[mu | x]``.

    Args:
        hessian: second derivatives of the marginal log-density at ``x``, ``(*batch, latent, latent)``.
        covariance: of the noise, as in :func:`tweedie_mean`.

    Raises :class:`UserError` as :func:`tweedie_mean` does.
    """
    curvature = floating("hessian", hessian)
    if curvature.ndim < 2 or curvature.shape[-1] != curvature.shape[-2]:
        raise UserError(f"hessian: expected square matrices, came shape {tuple(curvature.shape)}")
    latent = curvature.shape[-1]
    noise = _covariance(covariance, latent, curvature)
    full = noise if noise.ndim == 2 else torch.diag(noise.expand(latent))
    return full + full @ curvature @ full


def tweedie_variance(second_derivative: Numbers, variance: Numbers) -> Float[Tensor, ...]:
    """``Var[mu | x]`` of each number of a batch: ``variance * (1 + variance * (log p)''(x))``.

    Args:
        second_derivative: of the marginal log-density at each ``x``, any shape.
        variance: of the noise: a positive number, or one for each coordinate of the last axis.

    Raises :class:`UserError` for what is no finite number, and a variance that is not positive or does not fit.
    """
    curvature = floating("second_derivative", second_derivative)
    given = floating("variance", variance)
    if given.ndim > 1:
        raise UserError("variance: expected numbers, came a matrix; tweedie_covariance takes one")
    noise = _variances("variance", given.to(curvature), curvature.shape[-1] if curvature.ndim else 1)
    return noise * (1.0 + noise * curvature)


def _checked(x: Numbers, other: Numbers, covariance: Numbers, name: str) -> tuple[Tensor, Tensor, Tensor]:
    position = floating("x", x)
    values = floating(name, other).to(position)
    if values.shape != position.shape:
        raise UserError(
            f"{name}: expected the shape of x, {tuple(position.shape)}, came {tuple(values.shape)}"
        )
    if not position.ndim and floating("covariance", covariance).ndim == 2:
        raise UserError("x: expected at least one axis under a covariance matrix, came a number")
    return position, values, _covariance(covariance, position.shape[-1] if position.ndim else 1, position)


def _variances(name: str, noise: Tensor, latent: int) -> Tensor:
    if not bool((noise > 0).all() & torch.isfinite(noise).all()):
        raise UserError(f"{name}: expected variances above 0, came {noise.tolist()}")
    if noise.ndim and noise.shape != (latent,):
        raise UserError(f"{name}: expected {latent} variances, one a coordinate, came {noise.shape[0]}")
    return noise


def _covariance(covariance: Numbers, latent: int, like: Tensor) -> Tensor:
    noise = floating("covariance", covariance).to(like)
    if noise.ndim < 2:
        return _variances("covariance", noise, latent)
    if noise.shape != (latent, latent):
        raise UserError(f"covariance: expected a matrix of {latent} by {latent}, came {tuple(noise.shape)}")
    tolerance = 16.0 * torch.finfo(noise.dtype).eps
    if (
        not torch.allclose(noise, noise.mT, rtol=tolerance, atol=0.0)
        or torch.linalg.cholesky_ex(noise).info.any()
    ):
        raise UserError("covariance: expected a symmetric positive definite matrix, came one that is not")
    return noise
