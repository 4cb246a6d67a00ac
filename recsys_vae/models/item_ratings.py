"""What an item's ratings say of it, with intervals: by maximum likelihood, empirical Bayes, or Tweedie's formula."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy import special
from scipy.sparse import csr_array
from torch import Tensor

from recsys_vae.errors import UserError
from recsys_vae.estimation import (
    BernoulliStatistics,
    GaussianStatistics,
    fit_beta_bernoulli,
    fit_normal_inverse_gamma,
    tweedie_group_means,
)


class ItemEstimates(NamedTuple):
    """One entry an item: the estimate, and the ends of its central interval."""

    mean: Float[Tensor, " items"]
    low: Float[Tensor, " items"]
    high: Float[Tensor, " items"]


def maximum_likelihood(ratings: csr_array, level: float) -> ItemEstimates:
    """Mean ratings with the interval of large samples, which has no width about a single rating.

    An item without ratings has the mean of all.
    """
    found = _rating_statistics(ratings)
    mean = torch.where(found.count > 0, found.mean, float(ratings.data.mean()))
    return _gaussian(mean, found.scatter / found.count.clamp_min(1.0).square(), level)


def normal_inverse_gamma(ratings: csr_array, level: float) -> ItemEstimates:
    """Posterior law of each item's mean rating under the Normal-inverse-gamma prior of most evidence over items."""
    found = _rating_statistics(ratings)
    law = fit_normal_inverse_gamma(found).prior.posterior(found).mean_law
    return ItemEstimates(law.location, *law.interval(level))


def tweedie(ratings: csr_array, level: float) -> ItemEstimates:
    """Tweedie's formula under a prior of any shape; the interval is that of a Gaussian with its mean and variance.

    The prior of most likelihood is a few atoms, so the intervals are narrow: they ask which atom, not how wide it is.
    """
    return _gaussian(*tweedie_group_means(_rating_statistics(ratings)), level)


def beta_binomial(ratings: csr_array, level: float, liked_from: float) -> ItemEstimates:
    """Posterior law of the share of an item's ratings that are ``liked_from`` or more, beta prior of most evidence."""
    counts, liked = (
        np.bincount(ratings.indices, weights=w, minlength=ratings.shape[1])
        for w in (np.ones(ratings.nnz), (ratings.data >= liked_from).astype(np.float64))
    )
    if not 0 < liked.sum() < ratings.nnz:
        low, high = ratings.data.min(initial=np.inf), ratings.data.max(initial=-np.inf)
        raise UserError(
            f"model.liked_from: expected a rating that some reach and some do not, came {liked_from:g} for ratings "
            f"from {low:g} to {high:g}"
        )
    found = BernoulliStatistics.of_binomial(counts, liked)
    law = fit_beta_bernoulli(found).prior.posterior(found).law
    return ItemEstimates(law.mean, *law.interval(level))


OF_MEAN_RATINGS: dict[str, Callable[[csr_array, float], ItemEstimates]] = {
    "maximum_likelihood": maximum_likelihood,
    "normal_inverse_gamma": normal_inverse_gamma,
    "tweedie": tweedie,
}


def _rating_statistics(ratings: csr_array) -> GaussianStatistics:
    return GaussianStatistics.of_groups(ratings.data, ratings.indices, ratings.shape[1])


def _gaussian(mean: Tensor, variance: Tensor, level: float) -> ItemEstimates:
    half = float(special.ndtri(0.5 + level / 2.0)) * variance.sqrt()
    return ItemEstimates(mean, mean - half, mean + half)
