"""Pareto smoothing of importance weights (Vehtari, Simpson, Gelman, Yao & Gabry 2024, JMLR 25(72)).

The largest weights are replaced by the quantiles of a generalised Pareto law fitted to them, whose shape says how
far importance sampling can be trusted.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_LEAST_TAIL = 5  # draws; fewer cannot be fitted


class SmoothedWeights(NamedTuple):
    """Smoothed weights, normalised over the draws, in nats, and the shape of the fitted tail.

    ``k_hat`` below about 0.7 means reliable estimates; at 1 and above the weights have no finite mean. It is +inf
    where the tail has fewer than five draws (so always for 20 draws or fewer), and -inf where its weights are
    equal up to rounding, so bounded.
    """

    log_weights: Float[Tensor, " draws *batch"]
    k_hat: Float[Tensor, "*batch"]


class ParetoFit(NamedTuple):
    """A generalised Pareto law above zero: ``F(y) = 1 - (1 + k y / scale)^(-1/k)``."""

    shape: Float[Tensor, "*batch"]
    scale: Float[Tensor, "*batch"]


def pareto_smooth(log_weights: Float[Tensor, " draws *batch"]) -> SmoothedWeights:
    """Smooth the ``min(draws / 5, 3 sqrt(draws))`` largest weights of each member of the batch.

    Computed in float64, for all members at once; at least one weight of each must be finite.
    """
    # Apple's devices have no float64
    exact = log_weights.cpu() if log_weights.device.type == "mps" else log_weights
    exact = exact.to(torch.float64).movedim(0, -1)
    exact = exact - exact.amax(dim=-1, keepdim=True)
    n_draws = exact.shape[-1]
    n_tail = min(math.ceil(min(n_draws / 5.0, 3.0 * math.sqrt(n_draws))), n_draws - 1)

    ascending, order = exact.sort(dim=-1)
    tail = ascending[..., -n_tail:]
    least = math.log(torch.finfo(torch.float64).tiny)
    threshold = ascending[..., -n_tail - 1].clamp(min=least)
    in_tail = tail > threshold.unsqueeze(-1)  # draws that tie with the threshold are not
    flat = threshold >= -math.sqrt(torch.finfo(log_weights.dtype).eps)

    excess = (tail.exp() - threshold.exp().unsqueeze(-1)).where(in_tail, 0.0)
    fit = fit_generalised_pareto(excess, in_tail)
    fitted = ~flat & (in_tail.sum(dim=-1) >= _LEAST_TAIL) & fit.shape.isfinite()

    quantiles = _quantiles(fit, in_tail) + threshold.exp().unsqueeze(-1)
    replaced = fitted.unsqueeze(-1) & in_tail
    smoothed = torch.where(replaced, quantiles.log().clamp(max=0.0), tail)
    result = exact.scatter(-1, order[..., -n_tail:], smoothed).log_softmax(dim=-1)
    k_hat = torch.where(fitted, fit.shape, math.inf).masked_fill(flat, -math.inf)
    return SmoothedWeights(result.movedim(-1, 0).to(log_weights), k_hat.to(log_weights))


def fit_generalised_pareto(
    excess: Float[Tensor, "*batch tail"], counted: Bool[Tensor, "*batch tail"]
) -> ParetoFit:
    """Fit by the approximate posterior mean of Zhang & Stephens (2009, Technometrics 51), for every member at once.

    The shape is drawn towards 0.5 by the weight of ten observations (Vehtari et al. 2024, appendix C).

    Args:
        excess: ascending amounts over the threshold, zero where not counted.
        counted: which entries are observations; they are each member's last.
    """
    count = counted.sum(dim=-1, dtype=excess.dtype)
    n_grid = 30.0 + count.sqrt().floor()
    largest, quartile = excess[..., -1], _entry(excess, count, (count / 4.0 + 0.5).floor() - 1.0)
    grid, likelihood = [], []
    for point in range(1, int(n_grid.max()) + 1):  # a loop, so that memory holds one tail a member
        theta = 1.0 / largest + (1.0 - (n_grid / (point - 0.5)).sqrt()) / (3.0 * quartile)
        shape = _shape(theta, excess, count)
        profile = count * ((-theta / shape).log() - shape - 1.0)
        # where theta is 0 the law is exponential and the profile 0/0; its neighbours speak for it
        grid.append(theta)
        likelihood.append(profile.nan_to_num(nan=-math.inf).masked_fill(n_grid < point, -math.inf))
    posterior = torch.stack(likelihood).softmax(dim=0)
    theta = torch.where(posterior > 0.0, posterior * torch.stack(grid), 0.0).sum(dim=0)
    shape = _shape(theta, excess, count)
    return ParetoFit((count * shape + 5.0) / (count + 10.0), -shape / theta)


def _shape(theta: Tensor, excess: Tensor, count: Tensor) -> Tensor:
    """The likeliest shape for a given ``theta = -shape / scale``."""
    return torch.log1p(-theta.unsqueeze(-1) * excess).sum(dim=-1) / count


def _entry(excess: Tensor, count: Tensor, index: Tensor) -> Tensor:
    """Each member's ``index``-th counted entry."""
    place = (excess.shape[-1] - count + index).to(torch.int64).clamp(0, excess.shape[-1] - 1)
    return excess.gather(-1, place.unsqueeze(-1)).squeeze(-1)


def _quantiles(fit: ParetoFit, counted: Bool[Tensor, "*batch tail"]) -> Float[Tensor, "*batch tail"]:
    """The fitted quantiles of ``(rank - 1/2) / count``."""
    place = counted.cumsum(dim=-1, dtype=fit.shape.dtype)
    exponential = -torch.log1p((0.5 - place) / place[..., -1:])
    shape, scale = fit.shape.unsqueeze(-1), fit.scale.unsqueeze(-1)
    straight = shape.abs() < 1e-14
    return scale * torch.where(straight, exponential, torch.expm1(shape * exponential) / shape)
