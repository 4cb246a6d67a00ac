"""Rejection sampling (von Neumann 1951): exact draws from under an envelope."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
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


@dataclass(frozen=True)
class RejectionResult:
    """Exact draws from the target, and what acceptance tells of its integral ``Z``.

    Args:
        draws: independent.
        n_proposed: for each member of the batch.
        n_accepted: of those, the surplus over ``draws`` included.
        log_envelope: logarithm of ``k``, nats.
    """

    draws: Float[Tensor, "draws *batch latent"]
    n_proposed: int
    n_accepted: Int[Tensor, "*batch"]
    log_envelope: Float[Tensor, "*batch"]

    @property
    def acceptance(self) -> Float[Tensor, "*batch"]:
        """Share of proposals accepted: an estimate of ``Z / k``."""
        return self.n_accepted / self.n_proposed

    @property
    def acceptance_error(self) -> Float[Tensor, "*batch"]:
        """Standard error of ``acceptance``."""
        return (self.acceptance * (1.0 - self.acceptance) / self.n_proposed).sqrt()

    @property
    def log_normaliser(self) -> Float[Tensor, "*batch"]:
        """``log(k * acceptance)``, nats: an estimate of ``log Z``."""
        return self.log_envelope + self.acceptance.log()

    @property
    def log_normaliser_error(self) -> Float[Tensor, "*batch"]:
        """Standard error of ``log_normaliser``, nats."""
        return self.acceptance_error / self.acceptance


@torch.no_grad()
def rejection(
    log_density_fn: LogDensity,
    proposal: Distribution,
    log_envelope: float | Float[Tensor, "*batch"],
    n_draws: int,
    *,
    block_size: int = 4096,
    max_proposals: int = 10_000_000,
    seed: int = 0,
    generator: torch.Generator | None = None,
) -> RejectionResult:
    """Propose from ``q``, accept with probability ``p(z) / (k q(z))``, until every member has ``n_draws``.

    Args:
        log_density_fn: logarithm of ``p``, nats, not necessarily normalised: ``(draws, *batch, latent)`` to
            ``(draws, *batch)``.
        proposal: ``q``.
        log_envelope: logarithm of ``k``, nats, such that ``p <= k q`` everywhere; one for all or one a member.
        n_draws: for each member of the proposal's batch.
        block_size: proposals for each member at a time.
        max_proposals: for each member, before giving up.
        seed: of all randomness.
        generator: used in place of one made from ``seed``.

    Raises:
        UserError: when a log-density has the wrong shape or is NaN or +inf at a proposal; when ``p`` exceeds
            ``k q`` there by more than rounding; when ``max_proposals`` do not suffice.
    """
    check_count("n_draws", n_draws)
    check_count("block_size", block_size)
    check_count("max_proposals", max_proposals)
    random = generator_for(seed, generator, device_of(proposal), "rejection")
    proposed = proposal.draw(min(block_size, max_proposals), random)
    envelope = _checked_envelope(log_envelope, proposed)
    kept = proposed.new_zeros((n_draws, *proposed.shape[1:]))
    n_accepted = torch.zeros_like(proposed[0, ..., 0], dtype=torch.int64)
    n_proposed = 0
    while True:
        log_ratio = _log_ratio(log_density_fn, proposal, envelope, proposed)
        uniform = torch.rand(
            log_ratio.shape, generator=random, device=log_ratio.device, dtype=log_ratio.dtype
        )
        accepted = uniform < log_ratio.exp()
        # a member's accepted proposals go to the rows that it has not yet filled
        row = n_accepted + accepted.cumsum(dim=0) - 1
        place = (accepted & (row < n_draws)).nonzero(as_tuple=True)
        kept[(row[place], *place[1:])] = proposed[place]
        n_accepted = n_accepted + accepted.sum(dim=0)
        n_proposed += len(proposed)
        least = int(n_accepted.min())
        if least >= n_draws:
            return RejectionResult(kept, n_proposed, n_accepted, envelope.expand(n_accepted.shape))
        if n_proposed >= max_proposals:
            raise UserError(
                f"log_envelope: expected {n_draws} accepted draws within max_proposals={max_proposals}, came "
                f"{least}, an acceptance of {least / n_proposed:.3g}; a smaller envelope or a proposal nearer to "
                "the target would accept more"
            )
        proposed = proposal.draw(min(block_size, max_proposals - n_proposed), random)


def _checked_envelope(log_envelope: float | Tensor, proposed: Float[Tensor, "draws *batch latent"]) -> Tensor:
    envelope = torch.as_tensor(log_envelope, device=proposed.device, dtype=proposed.dtype)
    if envelope.ndim > 0 and envelope.shape != proposed.shape[1:-1]:
        raise UserError(
            f"log_envelope: expected one number or one for each of {tuple(proposed.shape[1:-1])}, "
            f"came shape {tuple(envelope.shape)}"
        )
    if not bool(envelope.isfinite().all()):
        raise UserError(
            f"log_envelope: expected finite numbers, came {float(envelope[~envelope.isfinite()][0])}"
        )
    return envelope


def _log_ratio(
    log_density_fn: LogDensity,
    proposal: Distribution,
    envelope: Float[Tensor, "*#batch"],
    proposed: Float[Tensor, "draws *batch latent"],
) -> Float[Tensor, " draws *batch"]:
    """``log(p / (k q))``, which must not be above zero."""
    target = checked_log_density(log_density_fn, proposed)
    roof = envelope + checked_log_density(proposal.log_density, proposed, "proposal")
    log_ratio = target - roof
    # where the envelope touches the target, rounding may lift either
    rounding = math.sqrt(torch.finfo(log_ratio.dtype).eps)
    above = ~(log_ratio <= rounding)
    if above.any():
        worst = log_ratio.where(above, -math.inf).flatten().argmax()
        place = first(torch.arange(log_ratio.numel(), device=worst.device).reshape(log_ratio.shape) == worst)
        raise UserError(
            f"log_envelope: expected log_density_fn <= log_envelope + the proposal's log-density everywhere, came "
            f"an excess of {float(log_ratio[place]):.6g} nats at {show(proposed[place])}"
        )
    return log_ratio
