"""Explicit ratings predicted by Bayesian matrix factorisation (Salakhutdinov & Mnih 2008): observed pairs count."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import torch
from jaxtyping import Float64, Int, Num
from scipy.sparse import coo_array, csr_array
from torch import Tensor

from recsys_vae.errors import UserError
from recsys_vae.models.base import check_interval, check_positive
from recsys_vae.models.blocked_gibbs import BlockedGibbs, NormalWishart
from recsys_vae.models.fit_checkpoint import NO_CHECKPOINT, FitCheckpoint
from recsys_vae.models.progress import Progress
from recsys_vae.models.wmf import check_rank

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RatingPredictive:
    """What the kept sweeps say of some pairs: ``rating ~ N(expected[draw], 1 / noise_precision[draw])``, all alike."""

    expected: Float64[np.ndarray, "draws pairs"]
    noise_precision: Float64[np.ndarray, " draws"]

    @property
    def mean(self) -> Float64[np.ndarray, " pairs"]:
        """The predictive mean, the average over the draws."""
        mean: np.ndarray = self.expected.mean(axis=0)
        return mean

    @property
    def standard_deviation(self) -> Float64[np.ndarray, " pairs"]:
        """Of a rating: noise and what is not known of the factors."""
        deviation: np.ndarray = np.sqrt(self.expected.var(axis=0) + (1.0 / self.noise_precision).mean())
        return deviation

    def root_mean_square_error(self, ratings: Num[np.ndarray, " pairs"]) -> float:
        """Of the predictive mean."""
        return float(np.sqrt(np.mean((self.mean - ratings) ** 2)))

    def coverage(self, ratings: Num[np.ndarray, " pairs"], level: float = 0.9, seed: int = 0) -> float:
        """Share of the ratings between the predictive quantiles ``(1 -+ level) / 2``, by a draw of noise each."""
        check_interval("level", level, 0.0, 1.0, include_low=False)
        noise = np.random.default_rng(seed).standard_normal(self.expected.shape)
        drawn = self.expected + noise / np.sqrt(self.noise_precision)[:, None]
        low, high = np.quantile(drawn, [0.5 - 0.5 * level, 0.5 + 0.5 * level], axis=0)
        return float(np.mean((low <= ratings) & (ratings <= high)))


@dataclass(frozen=True)
class RatingFactorisation:
    """``rating_ui ~ N(mean rating + x_u'y_i, 1 / noise_precision)`` of observed pairs, by blocked Gibbs sampling.

    Args:
        latent_dim: the rank; at most the number of users and of items.
        n_burn_in: sweeps that are not kept.
        n_draws: sweeps kept, those that follow.
        prior_strength: the paper's beta_0.
        seed: of all draws.
    """

    latent_dim: int = 10
    n_burn_in: int = 20
    n_draws: int = 200
    prior_strength: float = 2.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("latent_dim", "n_burn_in", "n_draws"):
            check_positive(name, getattr(self, name))
        check_interval("prior_strength", self.prior_strength, 0.0, math.inf, include_low=False)

    def predict(
        self,
        users: Int[np.ndarray, " train"],
        items: Int[np.ndarray, " train"],
        ratings: Num[np.ndarray, " train"] | None,
        query_users: Int[np.ndarray, " pairs"],
        query_items: Int[np.ndarray, " pairs"],
        checkpoint: FitCheckpoint = NO_CHECKPOINT,
    ) -> RatingPredictive:
        """Learn from ratings of pairs, each pair once, and predict others. Users and items are numbered from 0.

        Carries on from the checkpoint, where it holds one. Raises :class:`UserError` when ratings are missing or not
        finite, numbers of users or items are negative or of another length, or the rank is above the smaller side.
        """
        if ratings is None:
            raise UserError("ratings: expected a rating of each pair, came none")
        if len(ratings) == 0 or not np.isfinite(ratings).all():
            raise UserError("ratings: expected finite numbers, at least one of them")
        _check_codes("users", users, len(ratings))
        _check_codes("items", items, len(ratings))
        _check_codes("query_users", query_users, len(query_users))
        _check_codes("query_items", query_items, len(query_users))
        n_users = int(max(users.max(), query_users.max(initial=0))) + 1
        n_items = int(max(items.max(), query_items.max(initial=0))) + 1
        for n_rows, what in ((n_users, "users"), (n_items, "items")):
            check_rank(self.latent_dim, n_rows, what)
        centre = float(np.mean(ratings, dtype=np.float64))
        # Zeros, not what memory holds: what is not drawn yet goes into a checkpoint, too.
        expected = torch.zeros(self.n_draws, len(query_users), dtype=torch.float64)
        noise_precision = torch.zeros(self.n_draws, dtype=torch.float64)
        rows, columns = (
            torch.from_numpy(np.asarray(side, dtype=np.int64)) for side in (query_users, query_items)
        )
        gibbs = self._conditionals(users, items, ratings - centre, (n_users, n_items))
        generator = torch.Generator().manual_seed(self.seed)
        state = gibbs.start(self.latent_dim, generator)
        n_sweeps = self.n_burn_in + self.n_draws
        progress = Progress(log, "bpmf", n_sweeps)
        # The chain of other data has other names in its file, and so is refused.
        own = f"of_{self._digest(users, items, ratings, query_users, query_items)}"

        def tensors() -> dict[str, Tensor]:
            # A sweep draws the priors and the noise before it needs them.
            return {
                "users": state.users,
                "items": state.items,
                "expected": expected,
                "noise_precision": noise_precision,
                own: torch.zeros(()),
            }

        for done in checkpoint.iterations(n_sweeps, tensors, generator):
            state = gibbs.sweep(state, generator)
            progress(done)
            place = done - 1 - self.n_burn_in
            if place >= 0:
                products = (state.users[rows] * state.items[columns]).sum(dim=-1)
                expected[place] = centre + products.double()
                noise_precision[place] = state.noise_precision
        return RatingPredictive(expected.numpy(), noise_precision.numpy())

    def _digest(self, *arrays: np.ndarray) -> str:
        """Of the settings and the data."""
        digest = sha256(repr(self).encode())
        for array in arrays:
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]

    def _conditionals(
        self,
        users: Int[np.ndarray, " train"],
        items: Int[np.ndarray, " train"],
        centred: Num[np.ndarray, " train"],
        shape: tuple[int, int],
    ) -> BlockedGibbs:
        # A CSR matrix of positions: a centred rating of 0 is an observation, too.
        positions = csr_array(coo_array((np.arange(len(users)), (users, items)), shape=shape))
        if positions.nnz != len(users):
            raise UserError("users, items: expected each pair once, came repeats")
        order = positions.data.copy()
        ones = csr_array((np.ones(len(users)), positions.indices, positions.indptr), shape=shape)
        return BlockedGibbs(
            ones,
            np.asarray(centred, dtype=np.float32)[order],
            0.0,
            NormalWishart(self.prior_strength, float(self.latent_dim)),
        )


def _check_codes(name: str, codes: np.ndarray, length: int) -> None:
    if codes.shape != (length,) or codes.dtype.kind not in "iu" or codes.min(initial=0) < 0:
        raise UserError(
            f"{name}: expected {length} whole numbers from 0, came {codes.dtype} of shape {codes.shape}"
            + (f" from {codes.min()}" if codes.size and codes.dtype.kind in "iu" else "")
        )
