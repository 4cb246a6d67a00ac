"""The baseline that every recommender must beat: the same list for everyone."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse import csr_array
from torch import Tensor

from recsys_vae.errors import UserError
from recsys_vae.models.base import ClosedFormModel, check_interval
from recsys_vae.models.item_ratings import OF_MEAN_RATINGS, ItemEstimates, beta_binomial

_ESTIMATES = ("count", "beta_binomial", *OF_MEAN_RATINGS)
_RANKINGS = ("mean", "lower")


class Popularity(ClosedFormModel):
    """Score an item by what people did with it: how many took it, or how they rated it.

    By ``count``, an item's score is its share of the training interactions (by weight, where interactions have one).
    The other estimates are of ratings, and an item with few of them is drawn towards the rest: a single 5 is not the
    best film there is. They come with intervals.

    Args:
        n_items: size of the catalogue; comes from the data.
        estimate: ``count``; of the mean rating ``maximum_likelihood``, ``normal_inverse_gamma`` or ``tweedie``; or
            ``beta_binomial``, of the share of ratings that are ``liked_from`` or more. Priors are fitted to the
            ratings of all items. All but ``count`` need interactions that weigh their ratings.
        liked_from: for ``beta_binomial``.
        rank_by: the ``mean`` of the estimate, or the ``lower`` end of its interval.
        level: probability of the interval.
    """

    def __init__(
        self,
        n_items: int,
        estimate: str = "count",
        liked_from: float = 4.0,
        rank_by: str = "mean",
        level: float = 0.9,
    ) -> None:
        super().__init__(n_items)
        for name, value, allowed in (("estimate", estimate, _ESTIMATES), ("rank_by", rank_by, _RANKINGS)):
            if value not in allowed:
                raise UserError(f"model.{name}: expected one of {', '.join(allowed)}, came {value!r}")
        check_interval("model.level", level, 0.0, 1.0, include_low=False)
        if estimate == "count" and rank_by != "mean":
            raise UserError("model.rank_by: expected mean for model.estimate=count, which has no intervals")
        self.estimate = estimate
        self.liked_from = liked_from
        self.rank_by = rank_by
        self.level = level
        self.share: Tensor
        self.register_buffer("share", torch.zeros(n_items, dtype=torch.float64))
        if estimate != "count":
            self.mean: Tensor
            self.low: Tensor
            self.high: Tensor
            for name in ItemEstimates._fields:
                self.register_buffer(name, torch.zeros(n_items, dtype=torch.float64))

    def fit(self, matrix: csr_array) -> Popularity:
        """Count, or estimate.

        Raises :class:`UserError` for an estimate of ratings where interactions weigh the same, so that there are none.
        """
        self.check_histories(matrix)
        counts = torch.from_numpy(matrix.sum(axis=0, dtype="float64"))
        self.share.copy_(counts / counts.sum().clamp_min(1.0))
        if self.estimate == "count":
            return self
        if not matrix.nnz or np.ptp(matrix.data) == 0:
            raise UserError(
                f"model.estimate={self.estimate}: expected interactions that weigh their ratings, came ones that all "
                "weigh the same; give filters.weights=true filters.rating_threshold=null"
            )
        if self.estimate == "beta_binomial":
            found = beta_binomial(matrix, self.level, self.liked_from)
        else:
            found = OF_MEAN_RATINGS[self.estimate](matrix, self.level)
        for name, values in found._asdict().items():
            getattr(self, name).copy_(values)
        return self

    def estimates(self) -> ItemEstimates:
        """Each item's estimate with its interval. Raises :class:`UserError` for counts, which have none."""
        if self.estimate == "count":
            raise UserError(
                f"model.estimate: expected one of {', '.join(_ESTIMATES[1:])} for intervals, came 'count'"
            )
        return ItemEstimates(self.mean, self.low, self.high)

    @property
    def item_scores(self) -> Float[Tensor, " items"]:
        """What items are ranked by."""
        if self.estimate == "count":
            return self.share
        return self.mean if self.rank_by == "mean" else self.low

    @torch.no_grad()
    def score(self, histories: csr_array) -> Float[Tensor, "users items"]:
        """The items' scores, once for every user."""
        self.check_histories(histories)
        return self.item_scores.repeat(histories.shape[0], 1)

    @torch.no_grad()
    def user_vectors(self, histories: csr_array) -> Float[Tensor, "users 1"]:
        """A 1 for everyone, whose products with :meth:`item_vectors` are the scores."""
        self.check_histories(histories)
        return self.item_scores.new_ones(histories.shape[0], 1)

    @torch.no_grad()
    def item_vectors(self) -> Float[Tensor, "items 1"]:
        """The items' scores."""
        return self.item_scores.unsqueeze(-1)
