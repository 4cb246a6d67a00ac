"""Hierarchical Poisson factorisation by mean-field coordinate ascent.

P. Gopalan, J. M. Hofman, D. M. Blei, "Scalable Recommendation with Hierarchical Poisson Factorization", UAI 2015.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse import csr_array
from torch import Tensor

from recsys_vae.errors import UserError
from recsys_vae.models.base import IterativeModel, check_interval, check_positive
from recsys_vae.models.fit_checkpoint import NO_CHECKPOINT, FitCheckpoint
from recsys_vae.models.gamma_posterior import GammaPosterior
from recsys_vae.models.progress import Progress
from recsys_vae.models.weighted_factorisation import Side, products
from recsys_vae.models.wmf import check_rank

log = logging.getLogger(__name__)

# Products of two numbers that are no smaller than exp(-40) stay in the range of float32.
_LEAST_LOG_RATIO = -40.0


@dataclass(frozen=True)
class GammaHierarchy:
    """The prior of one side: ``activity_u ~ Gamma(a', a'/b')``, ``factor_uk ~ Gamma(a, activity_u)``.

    With ``a`` the ``shape``, ``a'`` the ``activity_shape`` and ``b'`` the ``activity_mean``; users have theta and xi,
    items have beta and eta, c, c' and d'.
    """

    shape: float
    activity_shape: float
    activity_mean: float

    @property
    def activity_rate(self) -> float:
        """``a' / b'``."""
        return self.activity_shape / self.activity_mean

    def activity(self, factors: GammaPosterior) -> GammaPosterior:
        """The best ``q(activity)``: kappa of the paper's figure 4 for users, tau for items."""
        rate = self.activity_rate + factors.mean.sum(dim=-1)
        return GammaPosterior(
            torch.full_like(rate, self.activity_shape + factors.shape.shape[-1] * self.shape), rate
        )

    def factors(
        self,
        counts: Float[Tensor, "rows latent"],
        activity: GammaPosterior,
        exposure: Float[Tensor, " latent"],
    ) -> GammaPosterior:
        """The best ``q(factors)``: gamma of figure 4 for users, lambda for items.

        ``counts`` are the sums of ``y phi_k`` over a row's pairs, ``exposure`` the other side's means, summed.
        """
        return GammaPosterior(self.shape + counts, activity.mean.unsqueeze(-1) + exposure)

    def bound(self, factors: GammaPosterior, activity: GammaPosterior) -> Float[Tensor, " rows"]:
        """``E[log p - log q]`` of factors and activities, nats."""
        a, a_prime, rate = self.shape, self.activity_shape, self.activity_rate
        log_factors = (
            a * activity.mean_log.unsqueeze(-1)
            - math.lgamma(a)
            + (a - 1.0) * factors.mean_log
            - activity.mean.unsqueeze(-1) * factors.mean
            + factors.entropy()
        )
        log_activity = (
            a_prime * math.log(rate)
            - math.lgamma(a_prime)
            + (a_prime - 1.0) * activity.mean_log
            - rate * activity.mean
            + activity.entropy()
        )
        return log_factors.sum(dim=-1) + log_activity


class HPF(IterativeModel):
    """``y_ui ~ Poisson(theta_u'beta_i)``, gamma factors, whose rates are gamma too: users' activity, items' popularity.

    Mean field: ``q`` is a product of gammas, and of a multinomial ``phi_ui`` for the shares of each positive count;
    zeros need none, so an iteration costs ``O((nnz + users + items) * latent)``. A new user's ``q`` is found by the
    same ascent with the items' held fixed.

    Args:
        n_items: size of the catalogue; comes from the data.
        latent_dim: the rank; at most the number of items and of training users.
        user_shape: the paper's a; the smaller, the sparser a user's factors.
        item_shape: the paper's c.
        activity_shape: the paper's a', of users.
        activity_mean: the paper's b'.
        popularity_shape: the paper's c', of items.
        popularity_mean: the paper's d'.
        n_iterations: of the fit.
        n_fold_in_iterations: of a new user's ascent.
        seed: of the start.
    """

    def __init__(
        self,
        n_items: int,
        latent_dim: int = 64,
        user_shape: float = 0.3,
        item_shape: float = 0.3,
        activity_shape: float = 0.3,
        activity_mean: float = 1.0,
        popularity_shape: float = 0.3,
        popularity_mean: float = 1.0,
        n_iterations: int = 100,
        n_fold_in_iterations: int = 50,
        seed: int = 0,
    ) -> None:
        super().__init__(n_items)
        for name, count in (
            ("latent_dim", latent_dim),
            ("n_iterations", n_iterations),
            ("n_fold_in_iterations", n_fold_in_iterations),
        ):
            check_positive(f"model.{name}", count)
        for name, value in (
            ("user_shape", user_shape),
            ("item_shape", item_shape),
            ("activity_shape", activity_shape),
            ("activity_mean", activity_mean),
            ("popularity_shape", popularity_shape),
            ("popularity_mean", popularity_mean),
        ):
            check_interval(f"model.{name}", value, 0.0, math.inf, include_low=False)
        check_rank(latent_dim, n_items, "items")
        self.latent_dim = latent_dim
        self.user_prior = GammaHierarchy(user_shape, activity_shape, activity_mean)
        self.item_prior = GammaHierarchy(item_shape, popularity_shape, popularity_mean)
        self.n_iterations = n_iterations
        self.n_fold_in_iterations = n_fold_in_iterations
        self.seed = seed
        self.item_factor_shape: Tensor
        self.item_factor_rate: Tensor
        self.register_buffer("item_factor_shape", torch.full((n_items, latent_dim), item_shape))
        self.register_buffer("item_factor_rate", torch.ones(n_items, latent_dim))

    def fit(self, matrix: csr_array, checkpoint: FitCheckpoint = NO_CHECKPOINT) -> HPF:
        """Climb the evidence lower bound.

        Raises :class:`UserError` when there are fewer users than ``latent_dim`` or a value is no positive whole number.
        """
        self.check_histories(matrix)
        check_rank(self.latent_dim, matrix.shape[0], "training users")
        check_counts(matrix)
        progress = Progress(log, "hpf", self.n_iterations)
        for state in self.ascent(matrix, checkpoint):
            progress(state.n_done, f", bound {state.elbo():.1f}" if progress.is_due() else "")
        log.info("hpf: evidence lower bound %.1f nats", state.elbo())
        self.item_factor_shape.copy_(state.items.shape)
        self.item_factor_rate.copy_(state.items.rate)
        return self

    def ascent(self, matrix: csr_array, checkpoint: FitCheckpoint = NO_CHECKPOINT) -> Iterator[Ascent]:
        """The state after each iteration that the checkpoint leaves to do: the steps of figure 4, in its order."""
        dtype = self.item_factor_shape.dtype
        by_user = Side.of(matrix, dtype)
        positions = csr_array((np.arange(matrix.nnz), matrix.indices, matrix.indptr), shape=matrix.shape)
        transposed = csr_array(positions.T.tocsr())
        order = torch.from_numpy(transposed.data.astype(np.int64))
        by_item = Side.of(transposed, dtype)
        pattern = by_user.pattern()
        generator = torch.Generator().manual_seed(self.seed)

        def start(prior: GammaHierarchy, n_rows: int) -> tuple[GammaPosterior, GammaPosterior]:
            # Around the prior's mean, each entry at another place: equal factors would stay equal.
            uniform = torch.rand(n_rows, self.latent_dim, generator=generator, dtype=dtype)
            factors = GammaPosterior(
                prior.shape * (0.5 + uniform), torch.full_like(uniform, prior.activity_mean)
            )
            return factors, prior.activity(factors)

        users, user_activity = start(self.user_prior, by_user.n_rows)
        items, item_activity = start(self.item_prior, by_item.n_rows)

        def tensors() -> dict[str, Tensor]:
            laws = {
                "user": users,
                "user_activity": user_activity,
                "item": items,
                "item_activity": item_activity,
            }
            return {
                f"{name}_{key}": value for name, law in laws.items() for key, value in law._asdict().items()
            }

        for n_done in checkpoint.iterations(self.n_iterations, tensors):
            theta, beta = geometric_means(users), geometric_means(items)
            # phi_uik = theta_uk beta_ik / sum_k theta_uk beta_ik, with geometric means; it is never written out.
            weights = by_user.values / products(pattern, theta, beta)
            user_counts = theta * by_user.weighted_sums(weights, beta)
            item_counts = beta * by_item.weighted_sums(weights[order], theta)
            users = self.user_prior.factors(user_counts, user_activity, items.mean.sum(dim=0))
            user_activity = self.user_prior.activity(users)
            items = self.item_prior.factors(item_counts, item_activity, users.mean.sum(dim=0))
            item_activity = self.item_prior.activity(items)
            yield Ascent(self, n_done, by_user, users, user_activity, items, item_activity)

    @property
    def items(self) -> GammaPosterior:
        """``q(beta)``."""
        return GammaPosterior(self.item_factor_shape, self.item_factor_rate)

    @torch.no_grad()
    def posterior(self, histories: csr_array) -> GammaPosterior:
        """``q(theta)`` of each user, ``(users, latent)``, by coordinate ascent in float64, the items' held fixed."""
        self.check_histories(histories)
        check_counts(histories)
        side = Side.of(histories, torch.float64)
        items = GammaPosterior(self.item_factor_shape.cpu(), self.item_factor_rate.cpu()).double()
        beta, exposure = geometric_means(items), items.mean.sum(dim=0)
        pattern, prior = side.pattern(), self.user_prior
        mean = torch.full((side.n_rows, self.latent_dim), prior.shape, dtype=torch.float64)
        users = GammaPosterior(mean, torch.full_like(mean, prior.activity_mean))
        for _ in range(self.n_fold_in_iterations):
            theta = geometric_means(users)
            weights = side.values / products(pattern, theta, beta)
            counts = theta * side.weighted_sums(weights, beta)
            users = prior.factors(counts, prior.activity(users), exposure)
        dtype = self.item_factor_shape.dtype
        return GammaPosterior(users.shape.to(self.device, dtype), users.rate.to(self.device, dtype))

    @torch.no_grad()
    def score(self, histories: csr_array) -> Float[Tensor, "users items"]:
        """``E[theta_u]'E[beta_i]``, the expected count."""
        return self.user_vectors(histories) @ self.item_vectors().mT

    @torch.no_grad()
    def user_vectors(self, histories: csr_array) -> Float[Tensor, "users latent"]:
        """``E[theta_u]``, whose inner products with :meth:`item_vectors` are the scores."""
        return self.posterior(histories).mean

    @torch.no_grad()
    def item_vectors(self) -> Float[Tensor, "items latent"]:
        """``E[beta_i]``."""
        return self.items.mean


@dataclass(frozen=True)
class Ascent:
    """Where ``q`` is after ``n_done`` iterations; ``phi`` is understood to be the best for the rest."""

    model: HPF
    n_done: int
    side: Side
    users: GammaPosterior
    user_activity: GammaPosterior
    items: GammaPosterior
    item_activity: GammaPosterior

    def elbo(self) -> float:
        """The evidence lower bound in nats, in float64.

        With the best ``phi``, a positive count adds ``y log sum_k exp(E log theta_uk + E log beta_ik) - log y!``.
        """
        users, items, side = self.users.double(), self.items.double(), self.side
        values = side.values.double()
        side = Side(side.offsets, side.columns, values, side.n_columns)
        users_top, items_top = (law.mean_log.amax(dim=-1) for law in (users, items))
        row_of = torch.repeat_interleave(torch.arange(side.n_rows), side.offsets.diff())
        rates = products(side.pattern(), geometric_means(users), geometric_means(items)).log()
        rates = rates + users_top[row_of] + items_top[side.columns]
        likelihood = (values * rates - torch.lgamma(values + 1.0)).sum()
        likelihood = likelihood - users.mean.sum(dim=0) @ items.mean.sum(dim=0)
        model = self.model
        priors = model.user_prior.bound(users, self.user_activity.double()).sum()
        priors = priors + model.item_prior.bound(items, self.item_activity.double()).sum()
        return float(likelihood + priors)


def geometric_means(law: GammaPosterior) -> Float[Tensor, "rows latent"]:
    """``exp(E log x)``, scaled so that the largest of a row is 1; ``phi`` does not see a row's scale."""
    logs = law.mean_log
    return (logs - logs.amax(dim=-1, keepdim=True)).clamp_min_(_LEAST_LOG_RATIO).exp_()


def check_counts(matrix: csr_array) -> None:
    """Raise :class:`UserError` for an interaction that is no positive whole number."""
    wrong = ~((matrix.data > 0.0) & (matrix.data == np.floor(matrix.data)) & np.isfinite(matrix.data))
    if wrong.any():
        raise UserError(f"matrix: expected counts, positive whole numbers, came {matrix.data[wrong][0]}")
