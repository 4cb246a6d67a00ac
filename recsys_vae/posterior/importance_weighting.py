"""Draws from a Gaussian, weighted to count as draws from the posterior."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.sparse import csr_array

from recsys_vae.errors import UserError
from recsys_vae.models import RecommenderModel
from recsys_vae.posterior.base import InferredPosterior, PosteriorMethod, Progress
from recsys_vae.posterior.checks import check_at_least, check_positive_number
from recsys_vae.posterior.density import PosteriorDensity, encoder_gaussian, latent_model, rows_of
from recsys_vae.posterior.laplace import laplace_gaussian
from recsys_vae.posterior.likelihood_power import LikelihoodPower, powers_of
from recsys_vae.posterior.mode import Mode
from recsys_vae.samplers import DiagonalGaussian, Distribution, FullGaussian, importance


@dataclass(frozen=True)
class ImportanceWeighting(PosteriorMethod):
    """Self-normalised importance sampling with Pareto-smoothed weights.

    ``diagnostics``: ``k_hat`` (below 0.7 the weights can be trusted, Vehtari et al. 2024), ``ess``.

    Args:
        draws: of each user.
        proposal: ``encoder``, or ``laplace``, the Gaussian at the mode.
        inflation: the proposal's standard deviations are multiplied by this.
        batch_size: users at a time.
    """

    draws: int = 500
    proposal: str = "laplace"
    inflation: float = 1.0
    batch_size: int = 100

    def __post_init__(self) -> None:
        check_at_least("posterior.draws", self.draws, 4)
        check_at_least("posterior.batch_size", self.batch_size, 1)
        check_positive_number("posterior.inflation", self.inflation)
        if self.proposal not in ("encoder", "laplace"):
            raise UserError(f"posterior.proposal: expected encoder or laplace, came {self.proposal!r}")

    def infer(
        self,
        model: RecommenderModel,
        histories: csr_array,
        likelihood_power: LikelihoodPower = 1.0,
        *,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> InferredPosterior:
        """Weigh the proposal's draws."""
        latent = latent_model(model)
        rows = rows_of(model, histories)
        density = PosteriorDensity(latent.likelihood(rows), powers_of(likelihood_power, rows))
        with torch.no_grad():
            proposal: Distribution
            if self.proposal == "encoder":
                encoder = encoder_gaussian(latent, rows)
                proposal = DiagonalGaussian(encoder.mean, self.inflation * encoder.standard_deviation)
            else:
                mode = Mode().infer(model, histories, likelihood_power).mean
                laplace = laplace_gaussian(density, mode)
                proposal = FullGaussian(laplace.mean, self.inflation * laplace.scale_tril)
            weighted = importance(density, proposal, self.draws, seed=seed)
            return InferredPosterior(
                weighted.mean,
                weighted.variance.sqrt(),
                weighted.draws,
                weighted.log_weights,
                {"k_hat": weighted.k_hat, "ess": weighted.effective_sample_size},
            )
