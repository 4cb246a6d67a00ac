"""A prior of any shape, by maximum likelihood, where each observation has a noise of its own.

The nonparametric maximum likelihood estimate (Kiefer & Wolfowitz 1956; Jiang & Zhang 2009) on a grid of atoms: a law of
what the noise hides, which makes the marginal law at every noise, whose score goes into Tweedie's formula.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from recsys_vae.errors import UserError
from recsys_vae.estimation.arguments import Numbers, broadcast, finite, positive, whole
from recsys_vae.estimation.normal_inverse_gamma import GaussianStatistics
from recsys_vae.estimation.tweedie import tweedie_mean, tweedie_variance

_TOLERANCE = 1e-7  # of the log-likelihood's rise in one round of EM, nats an observation
_MAX_ROUNDS = 5000


@dataclass(frozen=True)
class AtomPrior:
    """``sum_k weights_k delta(mu - atoms_k)``: what is observed is an atom plus Gaussian noise."""

    atoms: Float[Tensor, " atoms"]
    weights: Float[Tensor, " atoms"]

    def score(self, x: Float[Tensor, " n"], variance: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """First derivative of the marginal log-density of each ``x`` under its own noise."""
        pulls, share = self._pulls(x, variance)
        return (share * pulls).sum(dim=-1)

    def second_derivative(self, x: Float[Tensor, " n"], variance: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Second derivative of the same."""
        pulls, share = self._pulls(x, variance)
        mean = (share * pulls).sum(dim=-1, keepdim=True)
        return (share * (pulls - mean).square()).sum(dim=-1) - 1.0 / variance

    def posterior_moments(self, x: Numbers, variance: Numbers) -> tuple[Tensor, Tensor]:
        """``E[mu | x]`` and ``Var[mu | x]`` by Tweedie's formula, for each of ``x (n,)`` under its own noise."""
        values, noise = _checked(x, variance)
        # A variance that rounding leaves below 0 is 0: the posterior sits on one atom.
        spread = tweedie_variance(self.second_derivative(values, noise), noise).clamp_min(0.0)
        return tweedie_mean(values, self.score(values, noise), noise), spread

    def _pulls(self, x: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        off = self.atoms - x.unsqueeze(-1)
        pulls = off / variance.unsqueeze(-1)
        return pulls, torch.softmax(self.weights.log() - 0.5 * off * pulls, dim=-1)


def fit_atom_prior(x: Numbers, variance: Numbers, n_atoms: int = 100) -> AtomPrior:
    """The prior under which observations of known noise are most probable, by EM on ``n_atoms`` even places.

    Args:
        x: one observation a problem, ``(n,)``.
        variance: of its noise, ``(n,)`` or one for all.
        n_atoms: between the least and the largest observation, at least 2.

    Raises :class:`UserError` for variances that are not positive, observations that are all equal, or too few atoms.
    """
    values, noise = _checked(x, variance)
    whole("n_atoms", n_atoms, 2)
    if not bool(values.max() > values.min()):
        raise UserError("x: expected observations that differ, came a constant")
    atoms = torch.linspace(float(values.min()), float(values.max()), n_atoms, dtype=torch.float64)
    log_kernel = -0.5 * (atoms - values.unsqueeze(-1)).square() / noise.unsqueeze(-1)
    # Each row over its largest entry: only ratios within a row count, and none may underflow as a whole.
    kernel = (log_kernel - log_kernel.amax(dim=-1, keepdim=True)).exp()
    weights = torch.full((n_atoms,), 1.0 / n_atoms, dtype=torch.float64)
    before = -math.inf
    for _ in range(_MAX_ROUNDS):
        marginal = kernel @ weights
        value = float(marginal.log().mean())
        weights = weights * (kernel.T @ (1.0 / marginal)) / len(values)
        if value - before < _TOLERANCE:
            break
        before = value
    kept = weights > 1e-12
    return AtomPrior(atoms[kept], weights[kept] / weights[kept].sum())


def tweedie_group_means(statistics: GaussianStatistics) -> tuple[Tensor, Tensor]:
    """Posterior mean and variance of the means of many groups, ``(groups,)`` each, by Tweedie's formula.

    Groups share one variance within, pooled over them, so that a group's mean has noise of that over its count; the
    prior is :func:`fit_atom_prior`'s. A group without data has the prior's own mean and variance.

    Raises :class:`UserError` where no group has two observations, or none differ.
    """
    known = statistics.count > 0
    freedom = (statistics.count[known] - 1.0).sum()
    if not bool(freedom > 0) or not bool(statistics.scatter.sum() > 0):
        raise UserError("statistics: expected some group with observations that differ, came none")
    noise = statistics.scatter.sum() / freedom / statistics.count[known]
    prior = fit_atom_prior(statistics.mean[known], noise)
    centre = prior.weights @ prior.atoms
    mean = torch.full_like(statistics.mean, float(centre))
    variance = torch.full_like(mean, float(prior.weights @ (prior.atoms - centre).square()))
    mean[known], variance[known] = prior.posterior_moments(statistics.mean[known], noise)
    return mean, variance


def _checked(x: Numbers, variance: Numbers) -> tuple[Tensor, Tensor]:
    values, noise = finite("x", x), positive("variance", variance)
    if values.ndim != 1 or not values.numel():
        raise UserError(f"x: expected a flat list of observations, came shape {tuple(values.shape)}")
    broadcast(x=values.shape, variance=noise.shape)
    if noise.ndim > 1 or (noise.ndim and noise.shape[0] not in (1, len(values))):
        raise UserError(f"variance: expected one number or {len(values)}, came {tuple(noise.shape)}")
    return values, noise.expand(values.shape)
