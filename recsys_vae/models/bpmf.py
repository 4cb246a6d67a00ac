"""Bayesian matrix factorisation of implicit feedback by blocked Gibbs sampling (Salakhutdinov & Mnih 2008)."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse import csr_array
from torch import Tensor

from recsys_vae.models.base import IterativeModel, check_interval, check_positive
from recsys_vae.models.blocked_gibbs import (
    BlockedGibbs,
    Conditional,
    GaussianPrior,
    NormalWishart,
    conditionals,
)
from recsys_vae.models.fit_checkpoint import NO_CHECKPOINT, FitCheckpoint
from recsys_vae.models.gaussian_posterior import GaussianPosterior
from recsys_vae.models.progress import Progress
from recsys_vae.models.weighted_factorisation import Side
from recsys_vae.models.wmf import check_rank, check_weights

log = logging.getLogger(__name__)


class BPMF(IterativeModel):
    """The weighted model of :class:`~recsys_vae.models.wmf.WMF`, with its factors and its priors integrated out.

    ``p_ui ~ N(x_u'y_i, 1 / (noise_precision * c_ui))``, ``p_ui`` being 1 where user u has item i, else 0, and ``c_ui``
    the ``unobserved_weight`` plus the value of the interaction. Rows are Gaussian with a mean and a precision of their
    side, which have Normal-Wishart priors, and the noise precision has a gamma prior: nothing is regularised by hand.
    After ``n_burn_in`` sweeps, every ``n_thin``-th is kept until there are ``n_draws``.

    Given a kept draw of the items, a new user's law is Gaussian and exact; scores are its means' predictions, averaged
    over the draws.

    Args:
        n_items: size of the catalogue; comes from the data.
        latent_dim: the rank; at most the number of items and of training users.
        unobserved_weight: confidence in a pair without interaction, where one with an interaction of 1 has 1 more.
        prior_strength: the paper's beta_0.
        n_burn_in: sweeps before the first that can be kept.
        n_draws: sweeps kept.
        n_thin: sweeps from one kept to the next.
        seed: of all draws.
    """

    def __init__(
        self,
        n_items: int,
        latent_dim: int = 32,
        unobserved_weight: float = 0.25,
        prior_strength: float = 2.0,
        n_burn_in: int = 20,
        n_draws: int = 10,
        n_thin: int = 2,
        seed: int = 0,
    ) -> None:
        super().__init__(n_items)
        for name, count in (
            ("latent_dim", latent_dim),
            ("n_burn_in", n_burn_in),
            ("n_draws", n_draws),
            ("n_thin", n_thin),
        ):
            check_positive(f"model.{name}", count)
        for name, value in (("unobserved_weight", unobserved_weight), ("prior_strength", prior_strength)):
            check_interval(f"model.{name}", value, 0.0, math.inf, include_low=False)
        check_rank(latent_dim, n_items, "items")
        self.latent_dim = latent_dim
        self.unobserved_weight = unobserved_weight
        self.prior_strength = prior_strength
        self.n_burn_in = n_burn_in
        self.n_draws = n_draws
        self.n_thin = n_thin
        self.seed = seed
        self.item_draws: Tensor
        self.user_mean_draws: Tensor
        self.user_precision_draws: Tensor
        self.noise_precision_draws: Tensor
        self.register_buffer("item_draws", torch.zeros(n_draws, n_items, latent_dim))
        self.register_buffer("user_mean_draws", torch.zeros(n_draws, latent_dim))
        self.register_buffer("user_precision_draws", torch.eye(latent_dim).repeat(n_draws, 1, 1))
        self.register_buffer("noise_precision_draws", torch.ones(n_draws))

    def fit(self, matrix: csr_array, checkpoint: FitCheckpoint = NO_CHECKPOINT) -> BPMF:
        """Run the chain; ``O(nnz * latent^2 + (users + items) * latent^3)`` a sweep.

        Raises :class:`UserError` when there are fewer users than ``latent_dim``, or a value is not positive.
        """
        self.check_histories(matrix)
        check_rank(self.latent_dim, matrix.shape[0], "training users")
        check_weights(matrix)
        gibbs = BlockedGibbs(
            matrix,
            np.ones(matrix.nnz, dtype=np.float32),
            self.unobserved_weight,
            NormalWishart(self.prior_strength, float(self.latent_dim)),
            dtype=self.item_draws.dtype,
        )
        generator = torch.Generator().manual_seed(self.seed)
        state = gibbs.start(self.latent_dim, generator)
        n_sweeps = self.n_burn_in + 1 + (self.n_draws - 1) * self.n_thin
        progress = Progress(log, "bpmf", n_sweeps)

        def tensors() -> dict[str, Tensor]:
            # A sweep draws the priors and the noise before it needs them.
            return {"users": state.users, "items": state.items, **self.state_dict()}

        for done in checkpoint.iterations(n_sweeps, tensors, generator):
            state = gibbs.sweep(state, generator)
            place, between = divmod(done - self.n_burn_in - 1, self.n_thin)
            if done > self.n_burn_in and not between:
                self.item_draws[place] = state.items
                self.user_mean_draws[place] = state.user_prior.mean
                self.user_precision_draws[place] = state.user_prior.precision
                self.noise_precision_draws[place] = state.noise_precision
            progress(done, f", noise precision {state.noise_precision:.4g}")
        log.info("bpmf: %d draws, noise precision %.4g", self.n_draws, state.noise_precision)
        return self

    @torch.no_grad()
    def draw_users(
        self, histories: csr_array, generator: torch.Generator
    ) -> Float[Tensor, "draws users latent"]:
        """A taste of each user for each kept draw of the items, from its exact law given them and the history.

        ``generator`` is one of the CPU.
        """
        shape = (self.n_draws, histories.shape[0], self.latent_dim)
        noise = torch.randn(shape, generator=generator, dtype=torch.float64)
        drawn = torch.empty_like(noise)
        for place, law in self._users(histories):
            drawn[place, law.rows] = law.at(noise[place, law.rows])
        return drawn.to(self.device, self.item_draws.dtype)

    @torch.no_grad()
    def posterior(self, histories: csr_array) -> GaussianPosterior:
        """Mean and variance of each coordinate given each kept draw of the items, one draw after the other.

        ``(users, draws * latent)``: a coordinate means something only beside the items of its own draw.
        """
        shape = (histories.shape[0], self.n_draws, self.latent_dim)
        mean, variance = torch.empty(shape, dtype=torch.float64), torch.empty(shape, dtype=torch.float64)
        for place, law in self._users(histories):
            mean[law.rows, place], variance[law.rows, place] = law.at(), law.variances()
        dtype = self.item_draws.dtype
        return GaussianPosterior(
            mean.flatten(1).to(self.device, dtype), variance.log().flatten(1).to(self.device, dtype)
        )

    @torch.no_grad()
    def score(self, histories: csr_array) -> Float[Tensor, "users items"]:
        """The predictive mean of ``p_ui``: the average over the kept draws."""
        return self.user_vectors(histories) @ self.item_vectors().mT

    @torch.no_grad()
    def user_vectors(self, histories: csr_array) -> Float[Tensor, "users features"]:
        """Means given each draw, one after the other; their inner products with :meth:`item_vectors` are the scores."""
        return self.posterior(histories).mean

    @torch.no_grad()
    def item_vectors(self) -> Float[Tensor, "items features"]:
        """The items of each draw, one after the other, each a share of the average."""
        return self.item_draws.transpose(0, 1).flatten(1) / self.n_draws

    def _users(self, histories: csr_array) -> Iterator[tuple[int, Conditional]]:
        """The number of each kept draw, and the laws of some users given it, in float64 on the CPU."""
        self.check_histories(histories)
        side, a = Side.of(histories, torch.float64), self.unobserved_weight
        blocks, weights = list(side.blocks()), a + side.values
        means, precisions = self.user_mean_draws.double().cpu(), self.user_precision_draws.double().cpu()
        for place in range(self.n_draws):
            items = self.item_draws[place].double().cpu()
            linear = side.weighted_sums(weights, items)
            prior = GaussianPrior(means[place], precisions[place])
            noise_precision = float(self.noise_precision_draws[place])
            for law in conditionals(blocks, linear, items, prior, noise_precision, a):
                yield place, law
