"""The model's own answer: amortised inference, one pass of the encoder (for PPCA, the exact posterior)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.sparse import csr_array

from recsys_vae.models import RecommenderModel
from recsys_vae.posterior.base import InferredPosterior, PosteriorMethod, Progress
from recsys_vae.posterior.checks import check_at_least
from recsys_vae.posterior.density import encoder_gaussian, latent_model, rows_of
from recsys_vae.posterior.likelihood_power import LikelihoodPower


@dataclass(frozen=True)
class Encoder(PosteriorMethod):
    """``q(z | x)`` as training left it (Kingma & Welling 2014). ``likelihood_power`` has no say: training chose it.

    Args:
        draws: from the encoder's Gaussian; 0 plugs in its mean, as Liang et al. 2018 rank.
        batch_size: users at a time.
    """

    draws: int = 0
    batch_size: int = 500

    def __post_init__(self) -> None:
        check_at_least("posterior.draws", self.draws, 0)
        check_at_least("posterior.batch_size", self.batch_size, 1)

    def infer(
        self,
        model: RecommenderModel,
        histories: csr_array,
        likelihood_power: LikelihoodPower = 1.0,
        *,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> InferredPosterior:
        """One forward pass."""
        gaussian = encoder_gaussian(latent_model(model), rows_of(model, histories))
        draws = None
        if self.draws:
            generator = torch.Generator(device=model.device).manual_seed(seed)
            draws = gaussian.draw(self.draws, generator)
        return InferredPosterior(gaussian.mean, gaussian.standard_deviation, draws)
