"""A factorised Gaussian for each user, refined from the encoder's: what amortisation left on the table.

Kim et al. 2018 ("Semi-Amortized Variational Autoencoders") refine so during training; here the model is fixed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from scipy.sparse import csr_array
from torch import Tensor

from recsys_vae.errors import UserError
from recsys_vae.models import PPCA, RecommenderModel
from recsys_vae.posterior.base import InferredPosterior, PosteriorMethod, Progress
from recsys_vae.posterior.checks import check_at_least, check_positive_number
from recsys_vae.posterior.density import PosteriorDensity, encoder_gaussian, latent_model, rows_of
from recsys_vae.posterior.likelihood_power import LikelihoodPower, PowerPerItem, powers_of
from recsys_vae.samplers import DiagonalGaussian


class FactorisedGaussian(NamedTuple):
    """The optimum of coordinate ascent, with the evidence lower bound after every sweep, up to a constant."""

    mean: Float[Tensor, "*batch latent"]
    variance: Float[Tensor, "*batch latent"]
    bounds: Float[Tensor, " sweeps *batch"]


def coordinate_ascent(
    precision: Float[Tensor, "*#batch latent latent"],
    linear: Float[Tensor, "*batch latent"],
    *,
    initial: Float[Tensor, "*batch latent"] | None = None,
    n_sweeps: int = 50,
) -> FactorisedGaussian:
    """Mean field for ``p(z) ~ exp(linear'z - z' precision z / 2)``, factor by factor (Bishop 2006, section 10.1.2).

    With the others fixed, the best factor of coordinate j is Gaussian with variance ``1 / precision_jj`` and mean
    ``(linear_j - sum_{i != j} precision_ji mean_i) / precision_jj``. No step lowers the bound. The means converge to
    the exact ones; the variances are too small unless the precision is diagonal.
    """
    diagonal = precision.diagonal(dim1=-2, dim2=-1)
    mean = torch.zeros_like(linear) if initial is None else initial.clone()
    variance = (1.0 / diagonal).expand_as(linear)
    bounds = []
    for _ in range(n_sweeps):
        for j in range(linear.shape[-1]):
            coupling = (precision[..., j, :] * mean).sum(dim=-1) - diagonal[..., j] * mean[..., j]
            mean[..., j] = (linear[..., j] - coupling) / diagonal[..., j]
        quadratic = (mean * (precision @ mean.unsqueeze(-1)).squeeze(-1)).sum(dim=-1)
        trace = (diagonal * variance).sum(dim=-1)
        entropy = 0.5 * (variance.log() + math.log(2.0 * math.pi * math.e)).sum(dim=-1)
        bounds.append((linear * mean).sum(dim=-1) - 0.5 * (quadratic + trace) + entropy)
    return FactorisedGaussian(mean, variance.clone(), torch.stack(bounds))


@dataclass(frozen=True)
class MeanField(PosteriorMethod):
    """``q(z) = N(mean, diag(standard_deviation^2))`` of each user, climbing the evidence lower bound.

    The bound is ``E_q[log p(z) + likelihood_power * log p(x|z)]`` plus the entropy of q. For a VAE: Adam on pairs of
    opposite reparameterised draws, with the estimator whose variance vanishes at the optimum (Roeder et al. 2017),
    from the encoder's Gaussian. For PPCA: coordinate ascent in closed form. ``diagnostics``: ``elbo`` of the result and
    ``elbo_gain`` over the start, in nats, estimated from the same 16 draws of noise, so that the gain of one user may
    seem negative where their mean is not.

    Args:
        steps: of gradient ascent, or sweeps of coordinate ascent.
        pairs: of opposite draws a step.
        learning_rate: of the first step, in the encoder's standard deviations; falls to 0 by a cosine.
        draws: from the result, for the average of predictions; 0 plugs in the mean.
        batch_size: users at a time.
    """

    steps: int = 100
    pairs: int = 1
    learning_rate: float = 0.1
    draws: int = 0
    batch_size: int = 500

    def __post_init__(self) -> None:
        for name, value in (("steps", self.steps), ("pairs", self.pairs), ("batch_size", self.batch_size)):
            check_at_least(f"posterior.{name}", value, 1)
        check_at_least("posterior.draws", self.draws, 0)
        check_positive_number("posterior.learning_rate", self.learning_rate)

    def infer(
        self,
        model: RecommenderModel,
        histories: csr_array,
        likelihood_power: LikelihoodPower = 1.0,
        *,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> InferredPosterior:
        """Refine each user's Gaussian."""
        latent = latent_model(model)
        if isinstance(model, PPCA) and isinstance(likelihood_power, PowerPerItem):
            raise UserError(f"likelihood_power: expected a number for PPCA, came {likelihood_power}")
        rows = rows_of(model, histories)
        generator = torch.Generator(device=model.device).manual_seed(seed)
        density = PosteriorDensity(latent.likelihood(rows), powers_of(likelihood_power, rows))
        start = encoder_gaussian(latent, rows)
        with torch.no_grad():
            if isinstance(model, PPCA):
                assert not isinstance(likelihood_power, PowerPerItem)
                exact = model.exact_posterior(rows, likelihood_power=likelihood_power)
                precision = torch.cholesky_inverse(exact.scale_tril)
                linear = exact.mean @ precision
                factors = coordinate_ascent(precision, linear, initial=start.mean, n_sweeps=self.steps)
                refined = DiagonalGaussian(factors.mean, factors.variance.sqrt())
            else:
                refined = self._ascend(density, start, generator, progress)
            half = torch.randn(
                (8, *start.mean.shape), generator=generator, device=model.device, dtype=start.mean.dtype
            )
            noise = torch.cat([half, -half])
            elbo = evidence_lower_bound(density, refined, noise)
            gain = elbo - evidence_lower_bound(density, start, noise)
            draws = refined.draw(self.draws, generator) if self.draws else None
        return InferredPosterior(
            refined.mean, refined.standard_deviation, draws, diagnostics={"elbo": elbo, "elbo_gain": gain}
        )

    def _ascend(
        self,
        density: PosteriorDensity,
        start: DiagonalGaussian,
        generator: torch.Generator,
        progress: Progress | None,
    ) -> DiagonalGaussian:
        # Offsets in units of the encoder's standard deviation, and logarithms relative to it: one rate fits all.
        offset = torch.zeros_like(start.mean, requires_grad=True)
        log_ratio = torch.zeros_like(start.mean, requires_grad=True)
        adam = torch.optim.Adam([offset, log_ratio], lr=self.learning_rate, betas=(0.9, 0.99), maximize=True)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(adam, self.steps)
        for step in range(self.steps):
            standard_deviation = start.standard_deviation * log_ratio.exp()
            mean = start.mean + start.standard_deviation * offset
            half = torch.randn(
                (self.pairs, *mean.shape), generator=generator, device=mean.device, dtype=mean.dtype
            )
            noise = torch.cat([half, -half])
            _, gradient = density.value_and_gradient(torch.addcmul(mean, standard_deviation, noise))
            # Path derivative of log p - log q at the draws: the score of q, whose mean is 0, is left out.
            path = gradient * standard_deviation + noise
            offset.grad = (path / log_ratio.exp()).mean(dim=0)
            log_ratio.grad = (path * noise).mean(dim=0)
            adam.step()
            cosine.step()
            if progress is not None:
                progress("mean field", step + 1, self.steps)
        return DiagonalGaussian(
            (start.mean + start.standard_deviation * offset).detach(),
            (start.standard_deviation * log_ratio.exp()).detach(),
        )


def evidence_lower_bound(
    density: PosteriorDensity,
    gaussian: DiagonalGaussian,
    noise: Float[Tensor, "draws users latent"],
) -> Float[Tensor, " users"]:
    """``E_q[density(z) - log q(z)]`` in nats, per user, by the given standard normal noise.

    Both terms at the draws, not the second by its exact expectation: where q is the posterior, no noise is left.
    """
    points = torch.addcmul(gaussian.mean, gaussian.standard_deviation, noise)
    return (density(points) - gaussian.log_density(points)).mean(dim=0)
