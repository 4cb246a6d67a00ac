"""``log p(x)`` of a history under the generative model: bounds and estimates, always at ``likelihood_power`` 1."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from scipy.sparse import csr_array
from torch import Tensor

from recsys_vae.models import RecommenderModel
from recsys_vae.posterior.checks import check_at_least
from recsys_vae.posterior.density import PosteriorDensity, encoder_gaussian, latent_model, rows_of
from recsys_vae.posterior.laplace import WhitenedDensity, laplace_gaussian
from recsys_vae.posterior.mode import Mode
from recsys_vae.samplers import (
    DiagonalGaussian,
    Distribution,
    annealed_importance,
    annealed_importance_reversed,
    importance,
)

BOUND_SIZES = (1, 10, 100, 1000)


@torch.no_grad()
def importance_bounds(
    model: RecommenderModel,
    histories: csr_array,
    *,
    sizes: Sequence[int] = BOUND_SIZES,
    proposal: str = "encoder",
    seed: int = 0,
) -> dict[int, Float[Tensor, " users"]]:
    """Importance-weighted bounds on ``log p(x)``, K draws each (Burda, Grosse & Salakhutdinov 2016), nats a user.

    ``E[log mean_k p(x, z_k) / q(z_k)] <= log p(x)``, tighter as K grows; K = 1 is the ELBO. All sizes come from the
    same ``max(sizes)`` draws, cut into groups of K.

    Args:
        model: one with a posterior.
        histories: ``(users, items)``. The multinomial coefficient is left out, as in training.
        sizes: the values of K.
        proposal: ``encoder``, or ``laplace``, the Gaussian at the posterior's mode.
        seed: of the draws.
    """
    for size in sizes:
        check_at_least("sizes", size, 1)
    target, base = _target_and_base(model, histories, proposal)
    weighted = importance(target, base, max(4, *sizes), pareto_smoothing=False, seed=seed)
    bounds = {}
    for size in sizes:
        n_groups = max(sizes) // size
        used = weighted.raw_log_weights[: n_groups * size]
        groups = used.reshape(n_groups, size, *used.shape[1:])
        bounds[size] = (groups.logsumexp(dim=1) - math.log(size)).mean(dim=0)
    return bounds


@torch.no_grad()
def annealed_log_likelihood(
    model: RecommenderModel,
    histories: csr_array,
    *,
    n_temperatures: int = 200,
    n_chains: int = 16,
    seed: int = 0,
) -> Float[Tensor, " users"]:
    """``log p(x)`` by annealed importance sampling (Neal 2001) from the Laplace approximation, nats a user.

    The estimate of p(x) is unbiased, so that of its logarithm is low on average: a stochastic lower bound.
    """
    target, base = _target_and_base(model, histories, "laplace")
    found = annealed_importance(target, base, n_temperatures=n_temperatures, n_chains=n_chains, seed=seed)
    return found.log_normaliser


@torch.no_grad()
def reversed_log_likelihood(
    model: RecommenderModel,
    histories: csr_array,
    exact_draws: Float[Tensor, "chains users latent"],
    *,
    n_temperatures: int = 200,
    seed: int = 0,
) -> Float[Tensor, " users"]:
    """A stochastic upper bound on ``log p(x)``: the annealing run backwards from exact draws of the posterior.

    Such draws there are for simulated users: the taste that their history was drawn from (Grosse, Ghahramani & Adams
    2015).
    """
    target, base = _target_and_base(model, histories, "laplace")
    assert isinstance(target, _Whitened)
    draws = target.to_whitened(exact_draws)
    found = annealed_importance_reversed(target, base, draws, n_temperatures=n_temperatures, seed=seed)
    return found.log_normaliser


def _target_and_base(
    model: RecommenderModel, histories: csr_array, proposal: str
) -> tuple[PosteriorDensity | _Whitened, Distribution]:
    """``log p(x, z)``, and a distribution near to the posterior, in coordinates of their own."""
    latent = latent_model(model)
    rows = rows_of(model, histories)
    density = PosteriorDensity(latent.likelihood(rows), 1.0)
    if proposal == "encoder":
        return density, encoder_gaussian(latent, rows)
    mode = Mode().infer(model, histories, 1.0).mean
    whitened = _Whitened(density, mode)
    zeros = torch.zeros_like(mode)
    return whitened, DiagonalGaussian(zeros, torch.ones_like(zeros))


class _Whitened(WhitenedDensity):
    """``log p(x, z(u)) |dz/du|`` as a function of u: its integral over u is p(x) too."""

    def __init__(self, density: PosteriorDensity, mode: Tensor) -> None:
        self._laplace = laplace_gaussian(density, mode)
        super().__init__(density, self._laplace)
        self._log_volume = self._laplace.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)

    def to_whitened(self, latent: Tensor) -> Tensor:
        """From z to u."""
        centred = (latent - self._laplace.mean).unsqueeze(-1)
        solved: Tensor = torch.linalg.solve_triangular(self._laplace.scale_tril, centred, upper=False)
        return solved.squeeze(-1)

    def __call__(self, whitened: Tensor) -> Tensor:
        return super().__call__(whitened) + self._log_volume

    def value_and_gradient(self, whitened: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = super().value_and_gradient(whitened)
        return value + self._log_volume, gradient
