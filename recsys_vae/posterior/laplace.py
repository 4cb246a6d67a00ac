"""The Gaussian at the posterior's mode: an answer of its own, and the best coordinates for all that draw."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from scipy.sparse import csr_array
from torch import Tensor

from recsys_vae.errors import UserError
from recsys_vae.models import RecommenderModel
from recsys_vae.posterior.base import InferredPosterior, PosteriorMethod, Progress
from recsys_vae.posterior.checks import check_at_least
from recsys_vae.posterior.density import PosteriorDensity, latent_model, rows_of
from recsys_vae.posterior.likelihood_power import LikelihoodPower, powers_of
from recsys_vae.posterior.mode import Mode
from recsys_vae.samplers import FullGaussian


@dataclass(frozen=True)
class Laplace(PosteriorMethod):
    """``N(mode, (I + likelihood_power * F)^-1)``, F the Fisher information of the likelihood at the mode.

    MacKay 2003, chapter 27, with the Fisher information for minus the Hessian: it is positive definite where a
    decoder's curvature makes the Hessian indefinite. ``diagnostics`` are those of the mode.

    Args:
        draws: from the Gaussian; 0 plugs in the mode.
        batch_size: users at a time.
    """

    draws: int = 0
    batch_size: int = 100

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
        """Mode and curvature of every user."""
        found = Mode().infer(model, histories, likelihood_power)
        rows = rows_of(model, histories)
        density = PosteriorDensity(latent_model(model).likelihood(rows), powers_of(likelihood_power, rows))
        gaussian = laplace_gaussian(density, found.mean)
        draws = None
        if self.draws:
            draws = gaussian.draw(self.draws, torch.Generator(device=model.device).manual_seed(seed))
        deviation = gaussian.scale_tril.norm(dim=-1)
        return InferredPosterior(found.mean, deviation, draws, diagnostics=found.diagnostics)


@torch.no_grad()
def laplace_gaussian(density: PosteriorDensity, mode: Float[Tensor, "users latent"]) -> FullGaussian:
    """The Gaussian with mean ``mode`` and, there, the density's Fisher information as precision.

    Raises :class:`UserError` where the information, times the power, is so large that rounding hides the prior.
    """
    eye = torch.eye(mode.shape[-1], dtype=mode.dtype, device=mode.device)
    precision = eye + density.power_over(2) * density.likelihood.fisher_information(mode)
    # Rows and columns in reverse: precision = U U' with U upper, so that U^-T is the covariance's lower factor.
    factor, failed = torch.linalg.cholesky_ex(precision.flip(-2, -1))
    if bool(failed.any()) or not bool(factor.isfinite().all()):
        n_failed = int((failed > 0).sum())
        power = float(torch.as_tensor(density.likelihood_power).max())
        raise UserError(
            f"likelihood_power: expected one for which the curvature at the mode can be factored, came "
            f"{power:g}, where {n_failed} of {len(mode)} users' cannot"
        )
    upper = factor.flip(-2, -1)
    scale_tril = torch.linalg.solve_triangular(upper, eye.expand_as(upper), upper=True).mT
    return FullGaussian(mode, scale_tril.contiguous())


class WhitenedDensity:
    """A density in coordinates u in which ``gaussian`` is standard normal: ``z = mean + scale_tril u``.

    The Jacobian is constant, and left out. Where the Gaussian resembles the density, no direction of u is longer
    than another, and chains need few and large steps.
    """

    def __init__(self, density: PosteriorDensity, gaussian: FullGaussian) -> None:
        self._density = density
        self._gaussian = gaussian

    def to_latent(
        self, whitened: Float[Tensor, "*draws users latent"]
    ) -> Float[Tensor, "*draws users latent"]:
        """From u to z."""
        return self._gaussian.mean + _rows_times(whitened, self._gaussian.scale_tril.mT)

    def __call__(self, whitened: Float[Tensor, "*draws users latent"]) -> Float[Tensor, "*draws users"]:
        """The log-density at ``to_latent(whitened)``."""
        return self._density(self.to_latent(whitened))

    def value_and_gradient(
        self, whitened: Float[Tensor, "*draws users latent"]
    ) -> tuple[Float[Tensor, "*draws users"], Float[Tensor, "*draws users latent"]]:
        """The log-density, and its gradient with respect to u."""
        value, gradient = self._density.value_and_gradient(self.to_latent(whitened))
        return value, _rows_times(gradient, self._gaussian.scale_tril)


def _rows_times(rows: Tensor, matrices: Tensor) -> Tensor:
    """Each user's rows ``(*draws, users, latent)`` times the user's matrix."""
    flat = rows.reshape(-1, *rows.shape[-2:]).transpose(0, 1)
    return torch.bmm(flat, matrices).transpose(0, 1).reshape(rows.shape)
