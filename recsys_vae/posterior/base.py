"""What every way of inferring tastes is: histories in, a posterior over z out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from jaxtyping import Float
from scipy.sparse import csr_array
from torch import Tensor

from recsys_vae.models import RecommenderModel
from recsys_vae.posterior.likelihood_power import LikelihoodPower

# Called with the name of a phase, how many steps of it are done and how many there are.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class InferredPosterior:
    """What is known of each user's taste.

    ``draws`` is none for a point estimate; ``log_weights`` (normalised over draws) is none where all draws count the
    same. ``standard_deviation`` is 0 for a point estimate. ``diagnostics`` holds a number a user under each name.
    """

    mean: Float[Tensor, "users latent"]
    standard_deviation: Float[Tensor, "users latent"]
    draws: Float[Tensor, "draws users latent"] | None = None
    log_weights: Float[Tensor, "draws users"] | None = None
    diagnostics: Mapping[str, Float[Tensor, " users"]] = field(default_factory=dict)


class PosteriorMethod(ABC):
    """A way to infer tastes; holds settings and no state.

    ``batch_size`` is how many users it takes at a time. A method that draws does so with a seed of each batch, so
    its numbers depend on ``seed`` and ``batch_size`` and on nothing else.
    """

    batch_size: int = 500

    @abstractmethod
    def infer(
        self,
        model: RecommenderModel,
        histories: csr_array,
        likelihood_power: LikelihoodPower = 1.0,
        *,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> InferredPosterior:
        """Infer the taste behind each history ``(users, items)``.

        Args:
            model: one with a posterior: a VAE or PPCA.
            histories: a user without items has the prior as posterior.
            likelihood_power: see :class:`~recsys_vae.posterior.density.PosteriorDensity`; or a ``PowerPerItem``.
            seed: of all randomness here.
            progress: called as work proceeds.

        Raises :class:`~recsys_vae.errors.UserError` for a model without a posterior.
        """
