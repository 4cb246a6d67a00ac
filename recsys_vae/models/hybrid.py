"""A linear and a variational recommender together, added up where they rank (late fusion)."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse import csr_array
from torch import Tensor

from recsys_vae.models.base import ClosedFormModel, RecommenderModel, check_interval
from recsys_vae.models.gaussian_posterior import GaussianPosterior
from recsys_vae.models.multinomial_vae import MultinomialVAE


class Hybrid(RecommenderModel):
    """``score(x) = n^-length_exponent * linear(x) + variational_weight * log softmax f(z(x))``, n items in x.

    The two make different mistakes: a linear model of full rank remembers pairs of items, a VAE generalises through
    a taste of few dimensions (Vancura & Kordik 2021 train a product of both; on top of a linear model fitted on the
    same users a VAE learns to repeat it, so here each is trained on its own). The sum of ``n`` items' weights grows
    with ``n`` where a log-probability does not; the exponent says how much of that growth is evidence.

    The user's posterior is the variational path's: ``posterior=...``, exports of users and draws are about that.

    Args:
        n_items: size of the catalogue; comes from the data.
        variational: makes the variational path from ``n_items`` (``_partial_: true`` in a configuration).
        linear: makes the linear path, likewise.
        variational_weight: in the sum above, at least 0; training chooses it on the validation users.
        length_exponent: from 0 to 1; likewise.
    """

    variational_weight: Float[Tensor, ""]
    length_exponent: Float[Tensor, ""]

    def __init__(
        self,
        n_items: int,
        variational: Callable[..., MultinomialVAE],
        linear: Callable[..., ClosedFormModel],
        variational_weight: float = 0.08,
        length_exponent: float = 0.0,
    ) -> None:
        super().__init__(n_items)
        self.variational = variational(n_items=n_items)
        self.linear = linear(n_items=n_items)
        self.register_buffer("variational_weight", torch.zeros(()))
        self.register_buffer("length_exponent", torch.zeros(()))
        self.set_fusion(variational_weight, length_exponent)

    @property
    def latent_dim(self) -> int:
        """Size of z."""
        return self.variational.latent_dim

    def set_fusion(self, variational_weight: float, length_exponent: float) -> None:
        """Choose how the paths are added. Raises :class:`~recsys_vae.errors.UserError` outside the ranges."""
        check_interval("model.variational_weight", variational_weight, 0.0, math.inf)
        check_interval("model.length_exponent", length_exponent, 0.0, 1.0, include_high=True)
        self.variational_weight.fill_(variational_weight)
        self.length_exponent.fill_(length_exponent)

    @torch.no_grad()
    def fuse(
        self,
        log_probabilities: Float[Tensor, "users items"],
        histories: csr_array,
        linear: Float[Tensor, "users items"] | None = None,
    ) -> Float[Tensor, "users items"]:
        """The score above, with these log-probabilities (nats) of the variational path, however inferred.

        ``linear`` are the linear path's scores of the histories, where they are known already.
        """
        if linear is None:
            linear = self.linear.score(histories)
        lengths = torch.from_numpy(np.maximum(np.diff(histories.indptr), 1)).to(log_probabilities)
        scale = lengths**-self.length_exponent
        return torch.addcmul(self.variational_weight * log_probabilities, linear, scale.unsqueeze(-1))

    @torch.no_grad()
    def log_probabilities(self, histories: csr_array) -> Float[Tensor, "users items"]:
        """``log softmax f(z)`` at the encoder's mean, in nats."""
        return torch.log_softmax(self.variational.score(histories), dim=-1)

    @torch.no_grad()
    def score(self, histories: csr_array) -> Float[Tensor, "users items"]:
        """The fused score, with the variational path at its encoder's mean."""
        self.check_histories(histories)
        return self.fuse(self.log_probabilities(histories), histories)

    def posterior(self, histories: csr_array) -> GaussianPosterior:
        """The encoder's posterior of each user's taste."""
        return self.variational.posterior(histories)
