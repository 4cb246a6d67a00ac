"""Sampling-importance resampling (Rubin 1987): draws of equal weight out of weighted ones."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recsys_vae.errors import UserError
from recsys_vae.samplers.arguments import check_count, first, generator_for
from recsys_vae.samplers.importance import WeightedDraws
from recsys_vae.samplers.inverse_cdf import DiscreteLaw, open_uniform

Scheme = Literal["systematic", "multinomial", "without_replacement"]


@torch.no_grad()
def sampling_importance_resampling(
    weighted: WeightedDraws,
    n_draws: int,
    *,
    scheme: Scheme = "systematic",
    seed: int = 0,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "resampled *batch latent"]:
    """Resample by ``weighted.log_weights`` (Pareto smoothed, unless that was declined), for every member of the batch.

    The law of the result tends to the target's as ``weighted`` has more draws; its ``k_hat`` says whether to trust it.

    Args:
        weighted: from :func:`~recsys_vae.samplers.importance.importance`.
        n_draws: for each member; with replacement, well below the effective sample size, lest most be repeats.
        scheme: ``systematic`` takes each draw ``n_draws * weight`` times, rounded up or down at random, so adds the
            least noise; the results are shuffled. ``multinomial`` takes independently. ``without_replacement`` takes
            no draw twice, one after the other in proportion to the weights that are left: good where a few large
            weights would repeat (Gelman et al. 2013, section 10.4), exact only as ``n_draws`` is a small share.
        seed: of the resampling.
        generator: used in place of one made from ``seed``.

    Raises:
        UserError: when a member has fewer draws of positive weight than it is asked for without replacement.
    """
    check_count("n_draws", n_draws)
    if scheme not in get_args(Scheme):
        raise UserError(f"scheme: expected one of {', '.join(get_args(Scheme))}, came {scheme!r}")
    log_weights = weighted.log_weights
    random = generator_for(seed, generator, log_weights.device, "resampling")
    if scheme == "without_replacement":
        chosen = _without_replacement(log_weights, n_draws, random)
    else:
        chosen = _with_replacement(log_weights, n_draws, random, systematic=scheme == "systematic")
    index = chosen.unsqueeze(-1).expand(*chosen.shape, weighted.draws.shape[-1])
    return weighted.draws.gather(0, index)


def _with_replacement(
    log_weights: Float[Tensor, " draws *batch"], n_draws: int, random: torch.Generator, *, systematic: bool
) -> Int[Tensor, " resampled *batch"]:
    batch, device = log_weights.shape[1:], log_weights.device
    law = DiscreteLaw(log_weights.movedim(0, -1))
    u = open_uniform((1 if systematic else n_draws, *batch), random)
    if not systematic:
        return law.quantile(u)
    steps = torch.arange(n_draws, device=device, dtype=u.dtype).reshape(-1, *(1,) * len(batch))
    ordered = law.quantile((steps + u) / n_draws)
    shuffle = open_uniform(tuple(ordered.shape), random).argsort(dim=0)
    return ordered.gather(0, shuffle)


def _without_replacement(
    log_weights: Float[Tensor, " draws *batch"], n_draws: int, random: torch.Generator
) -> Int[Tensor, " resampled *batch"]:
    """The largest of ``log_weight + Gumbel noise`` are draws one after the other by the weights that are left."""
    n_positive = (log_weights > -torch.inf).sum(dim=0)
    short = n_positive < n_draws
    if short.any():
        raise UserError(
            f"n_draws: expected at most the {int(n_positive[first(short)])} draws of positive weight that member "
            f"{first(short)} has, came {n_draws}"
        )
    uniform = open_uniform(tuple(log_weights.shape), random)
    return (log_weights - (-uniform.log()).log()).topk(n_draws, dim=0).indices
