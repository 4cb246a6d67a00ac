"""What training maximises: the Monte Carlo evidence lower bound, and its point-estimate relative.

Liang et al. 2018, eq. 5 and 6: ``E_q[log p(x|z)] - kl_weight * KL(q(z|x) || p(z))``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from scipy.sparse import csr_array
from torch import Tensor

from recsys_vae.errors import UserError
from recsys_vae.models import GaussianPosterior, GradientModel, SparseRows
from recsys_vae.models.base import check_interval, check_positive


class ObjectiveTerms(NamedTuple):
    """The two halves of the objective, in nats, per user."""

    log_likelihood: Float[Tensor, " users"]
    kl: Float[Tensor, " users"]


@runtime_checkable
class LatentModel(Protocol):
    """What the objectives ask of a model: a Gaussian over each user's taste, and a likelihood given the taste."""

    def encode(self, histories: SparseRows, *, generator: torch.Generator | None = None) -> GaussianPosterior:
        """Approximate posterior; the generator drives whatever in it is random."""
        ...

    def log_likelihood(
        self,
        latent: Float[Tensor, "users latent"],
        histories: SparseRows,
        *,
        item_share: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, " users"]:
        """``log p(x | z)`` in nats, per user."""
        ...


class Objective(ABC):
    """Computes the terms on a batch of histories.

    ``n_passes`` is how often an epoch goes through the users; ``trains_in_turn`` whether a step may leave some of the
    weights without a gradient; ``trains`` which models.
    """

    trains: type[Any] = LatentModel
    n_passes = 1
    trains_in_turn = False

    def begin_training(self, model: GradientModel) -> None:
        """Called before the first epoch of a run, or of the rest of a resumed one; refuses a model not meant for it."""
        if not isinstance(model, self.trains):
            raise UserError(
                f"trainer.objective: {type(self).__name__} trains a {self.trains.__name__}, "
                f"came {type(model).__name__}"
            )

    def begin_pass(self, model: GradientModel, number: int, histories: csr_array) -> None:  # noqa: B027
        """Called before each pass over ``histories`` ``(users, items)``; ``number`` counts from 0 in every epoch."""

    @abstractmethod
    def __call__(
        self,
        model: Any,
        histories: SparseRows,
        generator: torch.Generator | None,
        users: Tensor | None = None,
    ) -> ObjectiveTerms:
        """Terms per user of a model that it ``trains``; all randomness comes from the generator.

        ``users`` are their rows in the training data.
        """


def gaussian_kl(posterior: GaussianPosterior) -> Float[Tensor, " users"]:
    """``KL(N(mean, diag exp(log_variance)) || N(0, I))`` in nats, per user (Kingma & Welling 2014, appendix B)."""
    mean, log_variance = posterior
    # expm1(v) - v keeps its digits where the posterior is close to the prior; exp(v) - 1 - v does not.
    return 0.5 * (mean.square() + torch.expm1(log_variance) - log_variance).sum(dim=-1)


def sample_gaussian(
    posterior: GaussianPosterior, n_samples: int, generator: torch.Generator | None
) -> Float[Tensor, "samples users latent"]:
    """Reparameterised draws ``mean + standard_deviation * noise``, differentiable in the posterior."""
    noise = torch.randn(
        (n_samples, *posterior.mean.shape),
        generator=generator,
        device=posterior.mean.device,
        dtype=posterior.mean.dtype,
    )
    return torch.addcmul(posterior.mean, posterior.standard_deviation, noise)


class MonteCarloELBO(Objective):
    """Estimate ``E_q[log p(x|z)]`` by the mean over ``n_samples`` reparameterised draws; the KL is exact.

    Unbiased for any ``n_samples``; the variance falls as its inverse. One draw, as in the paper, is usual.
    An ``item_share`` below 1 estimates the likelihood from that share of the items, with a bias that
    :mod:`recsys_vae.models.sampled_softmax` states.
    """

    def __init__(self, n_samples: int = 1, item_share: float = 1.0) -> None:
        check_positive("objective.n_samples", n_samples)
        check_share(item_share)
        self.n_samples = n_samples
        self.item_share = item_share

    def __call__(
        self,
        model: LatentModel,
        histories: SparseRows,
        generator: torch.Generator | None,
        users: Tensor | None = None,
    ) -> ObjectiveTerms:
        """Terms per user."""
        posterior = model.encode(histories, generator=generator)
        draws = sample_gaussian(posterior, self.n_samples, generator)
        log_likelihoods = [
            model.log_likelihood(latent, histories, item_share=self.item_share, generator=generator)
            for latent in draws
        ]
        return ObjectiveTerms(torch.stack(log_likelihoods).mean(dim=0), gaussian_kl(posterior))


class PointLogLikelihood(Objective):
    """``log p(x | z)`` at the encoder's point estimate, without a KL term: the objective of Mult-DAE.

    ``item_share`` is that of :class:`MonteCarloELBO`.
    """

    def __init__(self, item_share: float = 1.0) -> None:
        check_share(item_share)
        self.item_share = item_share

    def __call__(
        self,
        model: LatentModel,
        histories: SparseRows,
        generator: torch.Generator | None,
        users: Tensor | None = None,
    ) -> ObjectiveTerms:
        """Terms per user; the KL is 0."""
        latent = model.encode(histories, generator=generator).mean
        log_likelihood = model.log_likelihood(
            latent, histories, item_share=self.item_share, generator=generator
        )
        return ObjectiveTerms(log_likelihood, torch.zeros_like(log_likelihood))


def check_share(item_share: float) -> None:
    """Raise :class:`UserError` unless it is a share of the items, and not of none."""
    check_interval("objective.item_share", item_share, 0.0, 1.0, include_low=False, include_high=True)
