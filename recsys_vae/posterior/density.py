"""The log-density of a user's taste given a history: what every inference method here targets."""

from __future__ import annotations

import math
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from scipy.sparse import csr_array
from torch import Tensor

from recsys_vae.errors import UserError
from recsys_vae.models import GaussianPosterior, Hybrid, MultDAE, RecommenderModel, SparseRows
from recsys_vae.posterior.likelihood_power import check_power
from recsys_vae.samplers import DiagonalGaussian


@runtime_checkable
class Likelihood(Protocol):
    """``log p(x | z)`` of fixed histories, in nats, as a function of z ``(*draws, users, latent)``."""

    def __call__(self, latent: Tensor) -> Tensor:
        """``(*draws, users)``."""
        ...

    def value_and_gradient(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """The same, and its gradient with respect to z."""
        ...

    def fisher_information(self, latent: Tensor) -> Tensor:
        """Minus the expected Hessian with respect to z, ``(users, latent, latent)``, at one z a user."""
        ...


@runtime_checkable
class LatentModel(Protocol):
    """What inference asks of a model: ``z ~ N(0, I)``, ``p(x | z)``, an encoder, and item scores as a function of z."""

    latent_dim: int

    def encode(self, histories: SparseRows) -> GaussianPosterior:
        """The model's own guess of each user's posterior."""
        ...

    def likelihood(self, histories: SparseRows) -> Likelihood:
        """``log p(x | z)`` of these histories."""
        ...

    def decode(self, latent: Tensor) -> Tensor:
        """Scores of every item."""
        ...


class PosteriorDensity:
    """``log p(z) + likelihood_power * log p(x | z)`` for a batch of users, in nats, up to a constant of each user.

    ``likelihood_power = 1 / kl_weight`` is the posterior that a model trained with that ``kl_weight`` was trained for:
    the optimum of ``E_q[log p(x|z)] - kl_weight * KL(q || p)`` over all q is ``q(z) ~ p(z) p(x|z)^(1 / kl_weight)``.
    A power of 1 is the generative model's own posterior.

    Args:
        likelihood: of the users' histories.
        likelihood_power: see above; one for all users, or one of each ``(users,)``.
        with_prior: without, this is the likelihood alone, times its power.
    """

    def __init__(
        self, likelihood: Likelihood, likelihood_power: float | Tensor = 1.0, *, with_prior: bool = True
    ) -> None:
        check_power(likelihood_power)
        self.likelihood = likelihood
        self.likelihood_power = likelihood_power
        self.with_prior = with_prior

    def __call__(self, latent: Float[Tensor, "*draws users latent"]) -> Float[Tensor, "*draws users"]:
        """The log-density."""
        value = self.likelihood_power * self.likelihood(latent)
        return value + standard_normal_log_density(latent) if self.with_prior else value

    def power_over(self, n_axes: int) -> float | Tensor:
        """The power, to be multiplied with what has ``n_axes`` after the users'."""
        if isinstance(self.likelihood_power, Tensor):
            return self.likelihood_power.reshape(-1, *[1] * n_axes)
        return self.likelihood_power

    def value_and_gradient(
        self, latent: Float[Tensor, "*draws users latent"]
    ) -> tuple[Float[Tensor, "*draws users"], Float[Tensor, "*draws users latent"]]:
        """The log-density and its gradient with respect to ``latent``."""
        value, gradient = self.likelihood.value_and_gradient(latent)
        value, gradient = self.likelihood_power * value, self.power_over(1) * gradient
        if self.with_prior:
            value, gradient = value + standard_normal_log_density(latent), gradient - latent
        return value, gradient


def standard_normal_log_density(latent: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch"]:
    """``log N(z; 0, I)``, normalised, in nats."""
    return -0.5 * (latent.square().sum(dim=-1) + latent.shape[-1] * math.log(2.0 * math.pi))


def latent_model(model: RecommenderModel) -> Any:
    """The model, or that path of a hybrid, which has a posterior. Raises :class:`UserError` for one that has none."""
    if isinstance(model, Hybrid):
        model = model.variational
    if isinstance(model, MultDAE) or not isinstance(model, LatentModel):
        raise UserError(
            f"posterior: expected a model with a posterior over tastes, such as mult_vae, came {type(model).__name__}"
        )
    return model


def encoder_gaussian(model: LatentModel, histories: SparseRows) -> DiagonalGaussian:
    """The encoder's answer as a distribution to draw from and to start at."""
    with torch.no_grad():
        mean, log_variance = model.encode(histories)
    return DiagonalGaussian(mean, (0.5 * log_variance).exp())


def rows_of(model: RecommenderModel, histories: csr_array) -> SparseRows:
    """Checked histories on the model's device."""
    model.check_histories(histories)
    return SparseRows.from_csr(histories, model.device)
