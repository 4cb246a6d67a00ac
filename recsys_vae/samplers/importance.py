"""Self-normalised importance sampling: draws from a proposal, weighted to stand for draws from the target."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from recsys_vae.errors import UserError
from recsys_vae.samplers.arguments import (
    check_count,
    checked_log_density,
    device_of,
    first,
    generator_for,
    show,
)
from recsys_vae.samplers.distribution import Distribution
from recsys_vae.samplers.kernel import LogDensity
from recsys_vae.samplers.pareto_smoothing import pareto_smooth


@dataclass(frozen=True)
class WeightedDraws:
    """Draws with weights, and what the weights tell; each member of the batch has its own target.

    Args:
        draws: from the proposal.
        log_weights: normalised over the draws, Pareto smoothed unless that was declined; nats.
        raw_log_weights: target over proposal, neither smoothed nor normalised; nats.
        k_hat: shape of the weights' tail; above 0.7 the estimates, and their errors, are not to be trusted. See
            :class:`~recsys_vae.samplers.pareto_smoothing.SmoothedWeights` for when it is infinite.
    """

    draws: Float[Tensor, "draws *batch latent"]
    log_weights: Float[Tensor, " draws *batch"]
    raw_log_weights: Float[Tensor, " draws *batch"]
    k_hat: Float[Tensor, "*batch"]

    @property
    def log_normaliser(self) -> Float[Tensor, "*batch"]:
        """Logarithm of the mean raw weight, in nats: of the target's integral, the proposal's being 1."""
        return self.raw_log_weights.logsumexp(dim=0) - math.log(len(self.raw_log_weights))

    @property
    def log_normaliser_error(self) -> Float[Tensor, "*batch"]:
        """Standard error of ``log_normaliser``: the relative one of the mean weight, nats."""
        relative = (self.raw_log_weights - self.log_normaliser).exp()
        return relative.std(dim=0) / math.sqrt(len(relative))

    @property
    def effective_sample_size(self) -> Float[Tensor, "*batch"]:
        """``1 / sum(w^2)`` of the normalised weights: between 1 and the number of draws."""
        return (-(2.0 * self.log_weights).logsumexp(dim=0)).exp()

    def expectation(self, function: Callable[[Tensor], Tensor]) -> Float[Tensor, "*batch_values"]:
        """Weighted mean of ``function``: from ``(draws, *batch, latent)`` to ``(draws, *batch, *values)``."""
        return self._weighted(self._values(function))

    def expectation_error(self, function: Callable[[Tensor], Tensor]) -> Float[Tensor, "*batch_values"]:
        """Standard error of :meth:`expectation`: ``sqrt(sum w^2 (f - mean)^2)`` (Owen 2013, section 9.2)."""
        values = self._values(function)
        deviation = values - self._weighted(values)
        return self._weighted(self._aligned(values) * deviation.square()).sqrt()

    @property
    def mean(self) -> Float[Tensor, "*batch latent"]:
        """Weighted mean of the draws."""
        return self._weighted(self.draws)

    @property
    def variance(self) -> Float[Tensor, "*batch latent"]:
        """Weighted variance of each coordinate about the weighted mean."""
        return self._weighted((self.draws - self.mean).square())

    def _values(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        values = function(self.draws)
        if values.shape[: self.log_weights.ndim] != self.log_weights.shape:
            raise UserError(
                f"function: expected values of shape {(*self.log_weights.shape, '...')} for draws "
                f"{tuple(self.draws.shape)}, came {tuple(values.shape)}"
            )
        return values

    def _aligned(self, values: Tensor) -> Tensor:
        weights = self.log_weights.exp()
        return weights.reshape(weights.shape + (1,) * (values.ndim - weights.ndim))

    def _weighted(self, values: Tensor) -> Tensor:
        weights = self._aligned(values)
        # what a draw of no weight does is no matter, were it not a number
        return torch.where(weights > 0.0, weights * values, 0.0).sum(dim=0)


@torch.no_grad()
def importance(
    log_density_fn: LogDensity,
    proposal: Distribution,
    n_draws: int = 1000,
    *,
    pareto_smoothing: bool = True,
    seed: int = 0,
    generator: torch.Generator | None = None,
) -> WeightedDraws:
    """Draw from ``proposal`` and weigh by ``log_density_fn``, for every member of the proposal's batch at once.

    Args:
        log_density_fn: the target's, nats, not necessarily normalised: ``(draws, *batch, latent)`` to
            ``(draws, *batch)``. -inf is a weight of zero.
        proposal: with tails no lighter than the target's.
        n_draws: for each member; at least 4, and more than 20 for a finite ``k_hat``.
        pareto_smoothing: whether ``log_weights`` are smoothed; ``k_hat`` is found either way.
        seed: of the draws.
        generator: used in place of one made from ``seed``.

    Raises:
        UserError: when a log-density has the wrong shape, is NaN or +inf at a draw, or -inf at all draws of a
            member.
    """
    check_count("n_draws", n_draws, at_least=4)
    draws = proposal.draw(n_draws, generator_for(seed, generator, device_of(proposal), "importance"))
    log_target = checked_log_density(log_density_fn, draws)
    raw = log_target - _proposal_log_density(proposal, draws)
    hopeless = (raw == -math.inf).all(dim=0)
    if hopeless.any():
        raise UserError(
            f"log_density_fn: expected a finite value at some draw, came -inf at all {n_draws} draws for "
            f"{int(hopeless.sum())} of {hopeless.numel()} members of the batch, first index {first(hopeless)}"
        )
    smoothed = pareto_smooth(raw)
    log_weights = smoothed.log_weights if pareto_smoothing else raw.log_softmax(dim=0)
    return WeightedDraws(draws, log_weights, raw, smoothed.k_hat)


def _proposal_log_density(proposal: Distribution, draws: Tensor) -> Tensor:
    value = checked_log_density(proposal.log_density, draws, "proposal")
    impossible = value == -math.inf
    if impossible.any():
        raise UserError(
            f"proposal: expected a log-density at its own draw, came -inf at {show(draws[first(impossible)])}"
        )
    return value
