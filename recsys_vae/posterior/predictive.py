"""From a posterior over tastes to item probabilities: the average over draws, or plugging in the mean."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from recsys_vae.models import PPCA, WMF, RecommenderModel
from recsys_vae.posterior.base import InferredPosterior
from recsys_vae.posterior.density import latent_model


class Predictive(NamedTuple):
    """Scores of every item, and their standard deviation over the draws (none for a point estimate).

    For a softmax model the score is the logarithm of the predictive probability, in nats, and the deviation that of
    the log-probability; for PPCA and WMF both are those of the expected value of x.
    """

    scores: Float[Tensor, "users items"]
    standard_deviation: Float[Tensor, "users items"] | None


@torch.no_grad()
def predict(
    model: RecommenderModel,
    inferred: InferredPosterior,
    *,
    max_draws: int = 200,
    with_deviation: bool = False,
) -> Predictive:
    """``log E[softmax(f(z))]`` over the draws; without draws, ``log softmax(f(mean))``.

    Draws are taken one after the other, so that a few matrices of users by items are all there is in memory.

    Args:
        model: that of ``inferred``.
        inferred: tastes of some users.
        max_draws: no more than this many are averaged, evenly spaced; weighted draws are all used.
        with_deviation: whether to form the standard deviations too.
    """
    latent = latent_model(model)
    linear = isinstance(model, PPCA | WMF)
    if inferred.draws is None:
        return Predictive(_outcome(latent.decode(inferred.mean), linear), None)
    if linear and not with_deviation:  # the average of a linear function is that of the average
        return Predictive(latent.decode(inferred.mean), None)
    draws, log_weights = _chosen(inferred, max_draws)
    total: Tensor | None = None
    mean = squares = None
    weight_so_far = torch.zeros_like(draws[0, :, :1])
    for draw, log_weight in zip(draws, log_weights, strict=True):
        outcome = _outcome(latent.decode(draw), linear)
        weight = log_weight.exp().unsqueeze(-1)
        # West's weighted update, which does not subtract large numbers.
        weight_so_far = weight_so_far + weight
        part = torch.where(weight_so_far > 0.0, weight / weight_so_far, 0.0)
        if with_deviation:
            if mean is None or squares is None:
                mean, squares = torch.zeros_like(outcome), torch.zeros_like(outcome)
            shift = outcome - mean
            mean = torch.addcmul(mean, part, shift)
            squares = torch.addcmul(squares, weight * shift, outcome - mean)
        if not linear:
            contribution = outcome.exp_().mul_(weight)
            total = contribution if total is None else total.add_(contribution)
    deviation = None if squares is None else (squares / weight_so_far).clamp(min=0.0).sqrt()
    if linear:
        return Predictive(latent.decode(inferred.mean), deviation)
    assert total is not None
    return Predictive((total / weight_so_far).log(), deviation)


def _outcome(decoded: Tensor, linear: bool) -> Tensor:
    return decoded if linear else torch.log_softmax(decoded, dim=-1)


def _chosen(inferred: InferredPosterior, max_draws: int) -> tuple[Tensor, Tensor]:
    """The draws to average over, with their log-weights."""
    assert inferred.draws is not None
    draws, log_weights = inferred.draws, inferred.log_weights
    if log_weights is not None:
        return draws, log_weights
    if len(draws) > max_draws:
        places = torch.linspace(0, len(draws) - 1, max_draws, device=draws.device).round().long()
        draws = draws[places]
    return draws, torch.full(draws.shape[:2], -math.log(len(draws)), dtype=draws.dtype, device=draws.device)
