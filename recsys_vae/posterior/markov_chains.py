"""Draws from the posterior by Markov chains, several of each user, all users of a batch in one loop."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from scipy.sparse import csr_array
from torch import Tensor

from recsys_vae.errors import UserError
from recsys_vae.models import RecommenderModel
from recsys_vae.posterior.base import InferredPosterior, PosteriorMethod, Progress
from recsys_vae.posterior.checks import check_at_least
from recsys_vae.posterior.density import PosteriorDensity, encoder_gaussian, latent_model, rows_of
from recsys_vae.posterior.laplace import WhitenedDensity, laplace_gaussian
from recsys_vae.posterior.likelihood_power import LikelihoodPower, powers_of
from recsys_vae.posterior.mode import Mode
from recsys_vae.samplers import HMC, Kernel, SampleResult, sample


@dataclass(frozen=True)
class MarkovChains(PosteriorMethod):
    """Any kernel of :mod:`recsys_vae.samplers` on each user's posterior.

    Chains move in the coordinates that whiten the Laplace approximation, and start at draws from it: a taste's
    posterior is hundreds of times longer in some directions than in others, and so are the trajectories that a
    diagonal mass matrix would need. Or, with ``whitening=False``, they start at draws from the encoder's Gaussian,
    whose standard deviations are the first scale of the proposals. ``diagnostics``, a user: ``r_hat`` (largest over
    the coordinates), ``ess`` (smallest, bulk, all chains together), ``acceptance``, ``divergences``, ``invalid``.

    Args:
        kernel: such as ``HMC()``.
        draws: of each user, over all chains.
        chains: of each user.
        warmup: steps of each chain before the first draw.
        thin: steps between draws.
        whitening: see above. A kernel that wants the prior to be standard normal needs ``False``.
        batch_size: users at a time.
    """

    kernel: Kernel[Any] = field(default_factory=lambda: HMC(n_leapfrog=5.0))
    draws: int = 800
    chains: int = 4
    warmup: int = 50
    thin: int = 1
    whitening: bool = True
    batch_size: int = 100

    def __post_init__(self) -> None:
        if not isinstance(self.kernel, Kernel):
            raise UserError(
                f"posterior.kernel: expected a kernel of recsys_vae.samplers, came {self.kernel!r}"
            )
        for name, value, least in (
            ("chains", self.chains, 1),
            ("draws", self.draws, 4 * self.chains if self.chains > 0 else 4),
            ("warmup", self.warmup, 0),
            ("thin", self.thin, 1),
            ("batch_size", self.batch_size, 1),
        ):
            check_at_least(f"posterior.{name}", value, least)

    def infer(
        self,
        model: RecommenderModel,
        histories: csr_array,
        likelihood_power: LikelihoodPower = 1.0,
        *,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> InferredPosterior:
        """Run the chains and keep their draws."""
        result = self.run(model, histories, likelihood_power, seed=seed, progress=progress)
        assert result.draws is not None
        # Chain after chain: draws picked at even distances then come from all chains alike.
        draws = result.draws.transpose(0, 1).flatten(0, 1)
        return InferredPosterior(result.mean, result.variance.sqrt(), draws, None, user_diagnostics(result))

    def run(
        self,
        model: RecommenderModel,
        histories: csr_array,
        likelihood_power: LikelihoodPower = 1.0,
        *,
        seed: int = 0,
        keep_draws: bool = True,
        progress: Progress | None = None,
    ) -> SampleResult:
        """Run the chains; everything that the sampler reports, with axes ``(draws, chains, users, latent)``."""
        latent = latent_model(model)
        rows = rows_of(model, histories)
        generator = torch.Generator(device=model.device).manual_seed(seed)
        density = PosteriorDensity(latent.likelihood(rows), powers_of(likelihood_power, rows))
        settings: dict[str, Any] = {
            "n_draws": -(-self.draws // self.chains),
            "n_warmup": self.warmup,
            "thin": self.thin,
            "seed": seed + 1,
            "keep_draws": keep_draws,
            "progress": progress,
        }
        if not self.whitening:
            start = encoder_gaussian(latent, rows)
            initial = start.draw(self.chains, generator)
            return sample(self.kernel, density, initial, scale=start.standard_deviation, **settings)
        # Some dozens of steps would tell less of the scale than the Laplace approximation has told.
        settings["adapt_scale"] = False
        mode = Mode().infer(model, histories, likelihood_power).mean
        whitened = WhitenedDensity(density, laplace_gaussian(density, mode))
        initial = torch.randn(
            (self.chains, *mode.shape), generator=generator, device=mode.device, dtype=mode.dtype
        )
        return sample(self.kernel, whitened, initial, transform=whitened.to_latent, **settings)


def user_diagnostics(result: SampleResult) -> dict[str, Float[Tensor, " users"]]:
    """The worst of each diagnostic over a user's coordinates, or the mean or sum over the chains."""
    found = result.diagnostics
    return {
        "r_hat": found.r_hat.amax(dim=-1),
        "ess": found.ess_bulk.amin(dim=-1),
        "acceptance": found.acceptance.mean(dim=0),
        "divergences": found.divergences.sum(dim=0).to(found.acceptance.dtype),
        "invalid": found.invalid.sum(dim=0).to(found.acceptance.dtype),
    }
