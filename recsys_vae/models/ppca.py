"""Probabilistic PCA (Tipping & Bishop 1999, "Probabilistic Principal Component Analysis", JRSS B 61(3)).

Fit, posterior and evidence all have closed forms, which makes it the yardstick of approximate inference.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse import csr_array
from torch import Tensor

from recsys_vae.errors import UserError
from recsys_vae.models.base import ClosedFormModel, check_interval, check_positive
from recsys_vae.models.gaussian_posterior import GaussianPosterior
from recsys_vae.models.principal_components import principal_components
from recsys_vae.models.sparse_rows import SparseRows, sparse_product

log = logging.getLogger(__name__)

_ROUNDING = 1e-12  # a share of the variance that is no more than rounding in float64


class SharedCovariancePosterior(NamedTuple):
    """``N(mean, covariance)`` over each user's taste; ``covariance = scale_tril scale_tril'`` is every user's."""

    mean: Float[Tensor, "users latent"]
    covariance: Float[Tensor, "latent latent"]
    scale_tril: Float[Tensor, "latent latent"]

    def marginals(self) -> GaussianPosterior:
        """The same means and variances without the correlations."""
        log_variance = self.covariance.diagonal().log()
        return GaussianPosterior(self.mean, log_variance.expand_as(self.mean).clone())


@dataclass(frozen=True)
class GaussianLikelihood:
    """``log p(x | z)`` in nats of a batch of users as a function of z, at ``O(latent^2)`` an evaluation.

    Expanded about the posterior mean ``centre``, where the gradient of the log-likelihood is the centre itself (that
    of the log-prior is its negative): ``at_centre + centre'd - d' curvature d / 2`` with ``d = z - centre``. Of
    ``||x - mean||^2 - 2 z'W'(x - mean) + z'W'Wz``, float32 would keep few digits.
    """

    centre: Float[Tensor, "users latent"]
    at_centre: Float[Tensor, " users"]
    curvature: Float[Tensor, "latent latent"]

    def __call__(self, latent: Float[Tensor, "*draws users latent"]) -> Float[Tensor, "*draws users"]:
        """With the normaliser; differentiable in ``latent``."""
        return self.at_centre + self.log_ratio(latent)

    def log_ratio(self, latent: Float[Tensor, "*draws users latent"]) -> Float[Tensor, "*draws users"]:
        """``log p(x | latent) - log p(x | centre)``: it has more digits than the difference of two values."""
        offset = latent - self.centre
        return (offset * (self.centre - 0.5 * offset @ self.curvature)).sum(dim=-1)

    def value_and_gradient(
        self, latent: Float[Tensor, "*draws users latent"]
    ) -> tuple[Float[Tensor, "*draws users"], Float[Tensor, "*draws users latent"]]:
        """The log-likelihood and its gradient with respect to ``latent``, from one product."""
        offset = latent - self.centre
        bent = offset @ self.curvature
        return self.at_centre + (offset * (self.centre - 0.5 * bent)).sum(dim=-1), self.centre - bent

    def fisher_information(
        self, latent: Float[Tensor, "users latent"]
    ) -> Float[Tensor, "users latent latent"]:
        """Minus the Hessian, ``W'W / noise_variance``: the same everywhere and for everyone."""
        return self.curvature.expand(len(latent), *self.curvature.shape)

    def to(self, dtype: torch.dtype) -> GaussianLikelihood:
        """Return the same function in another precision."""
        return GaussianLikelihood(self.centre.to(dtype), self.at_centre.to(dtype), self.curvature.to(dtype))


class _Statistics(NamedTuple):
    """All that the likelihood needs to know of the histories and the parameters, in float64."""

    projection: Float[Tensor, "users latent"]  # W'(x - mean)
    squared_norm: Float[Tensor, " users"]  # ||x - mean||^2
    gram: Float[Tensor, "latent latent"]  # W'W
    noise_variance: Float[Tensor, ""]
    n_items: int

    def posterior(self, likelihood_power: float) -> SharedCovariancePosterior:
        """Of precision ``I + likelihood_power / noise_variance * gram``, the same for every user."""
        scale = likelihood_power / self.noise_variance
        eye = torch.eye(self.gram.shape[0], dtype=self.gram.dtype, device=self.gram.device)
        # Rows and columns in reverse: precision = U U' with U upper, so that U^-T is the covariance's lower factor.
        upper = torch.linalg.cholesky((eye + scale * self.gram).flip(-2, -1)).flip(-2, -1)
        scale_tril = torch.linalg.solve_triangular(upper, eye, upper=True).mT
        mean = (scale * self.projection) @ scale_tril @ scale_tril.mT
        return SharedCovariancePosterior(mean, scale_tril @ scale_tril.mT, scale_tril)

    def likelihood(self, centre: Float[Tensor, "users latent"]) -> GaussianLikelihood:
        """Expanded about the posterior mean, where ``W'W centre + noise_variance centre = W'(x - mean)``."""
        projected = self.projection + self.noise_variance * centre
        residual = self.squared_norm - (centre * projected).sum(dim=-1)  # ||x - mean - W centre||^2
        log_normaliser = 0.5 * self.n_items * (2.0 * math.pi * self.noise_variance).log()
        at_centre = -0.5 * residual / self.noise_variance - log_normaliser
        return GaussianLikelihood(centre, at_centre, self.gram / self.noise_variance)


class PPCA(ClosedFormModel):
    """``z ~ N(0, I)``, ``x | z ~ N(W z + mean, noise_variance I)``, fitted by maximum likelihood in closed form.

    ``x`` is the history as numbers, unobserved items being 0. What is learned lies in the buffers ``weight``
    (W, ``(items, latent)``), ``mean`` and ``noise_variance``: float32, or float64 after ``.double()``. The columns
    of a fitted ``weight`` are orthogonal, by falling length. Sums over items are in float64 whatever the buffers are.

    Args:
        n_items: size of the catalogue; comes from the data.
        latent_dim: size of z; less than the number of items and of training users.
        min_noise_share: the noise variance is at least this share of the items' mean variance. Where
            ``latent_dim`` components explain everything, the likelihood has no maximum without such a bound.
    """

    def __init__(self, n_items: int, latent_dim: int = 25, min_noise_share: float = 1e-6) -> None:
        super().__init__(n_items)
        check_positive("model.latent_dim", latent_dim)
        check_interval("model.min_noise_share", min_noise_share, 0.0, 1.0)
        if latent_dim >= n_items:
            raise UserError(
                f"model.latent_dim: expected less than the number of items, {n_items}, came {latent_dim}"
            )
        self.latent_dim = latent_dim
        self.min_noise_share = min_noise_share
        self.weight: Tensor
        self.mean: Tensor
        self.noise_variance: Tensor
        self.register_buffer("weight", torch.zeros(n_items, latent_dim))
        self.register_buffer("mean", torch.zeros(n_items))
        self.register_buffer("noise_variance", torch.ones(()))

    def fit(self, matrix: csr_array) -> PPCA:
        """``W = U (Lambda - noise_variance I)^1/2``: section 3.2 of the paper, R = I; the noise variance is the
        mean of the eigenvalues that are left.

        In float64. The signs are fixed, so the weights are the same on any machine, up to rounding and to rotations
        among directions of equal variance. Raises
        :class:`UserError` when there are no more users than ``latent_dim`` or when they do not vary.
        """
        self.check_histories(matrix)
        n_users = matrix.shape[0]
        if self.latent_dim >= n_users:
            raise UserError(
                f"model.latent_dim: expected less than the number of training users, {n_users}, "
                f"came {self.latent_dim}"
            )
        components = principal_components(matrix.astype(np.float64), self.latent_dim)
        total = components.total_variance
        if total <= _ROUNDING * components.mean_square:
            raise UserError("matrix: expected training users who differ, came the same history for all")
        residual = total - float(components.variances.sum())
        noise_variance = max(residual, 0.0) / (self.n_items - self.latent_dim)
        floor = self.min_noise_share * total / self.n_items
        if residual <= _ROUNDING * total and floor == 0.0:
            raise UserError(
                f"model.latent_dim: expected fewer, or model.min_noise_share above 0, came {self.latent_dim}, "
                "which leaves no variance to the noise"
            )
        if noise_variance < floor:
            log.warning("ppca: %d dimensions leave next to nothing to the noise", self.latent_dim)
            noise_variance = floor
        excess = np.maximum(components.variances - noise_variance, 0.0)
        self.weight.copy_(torch.from_numpy(components.directions * np.sqrt(excess)))
        self.mean.copy_(torch.from_numpy(components.mean))
        self.noise_variance.fill_(noise_variance)
        log.info(
            "ppca: %d dimensions hold %.1f %% of the variance",
            self.latent_dim,
            100.0 * (1.0 - residual / total),
        )
        return self

    def decode(self, latent: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch items"]:
        """``W z + mean``: the expectation of x."""
        return torch.nn.functional.linear(latent, self.weight, self.mean)

    def exact_posterior(
        self, histories: SparseRows, *, likelihood_power: float = 1.0
    ) -> SharedCovariancePosterior:
        """``p(z) p(x|z)^likelihood_power``, normalised: a Gaussian, as if of a noise variance divided by the power.

        Power 1 is the posterior, ``N(M^-1 W'(x - mean), noise_variance M^-1)`` with ``M = W'W + noise_variance I``
        (section 3.1 of the paper); power 0 the prior.
        """
        check_interval("likelihood_power", likelihood_power, 0.0, math.inf)
        mean, covariance, scale_tril = self._statistics(histories).posterior(likelihood_power)
        dtype = self.weight.dtype
        return SharedCovariancePosterior(mean.to(dtype), covariance.to(dtype), scale_tril.to(dtype))

    def encode(self, histories: SparseRows, *, likelihood_power: float = 1.0) -> GaussianPosterior:
        """Exact mean and marginal variance of each coordinate; the full covariance is :meth:`exact_posterior`'s."""
        return self.exact_posterior(histories, likelihood_power=likelihood_power).marginals()

    @torch.no_grad()
    def posterior(self, histories: csr_array, *, likelihood_power: float = 1.0) -> GaussianPosterior:
        """:meth:`encode` of a matrix."""
        self.check_histories(histories)
        return self.encode(SparseRows.from_csr(histories, self.device), likelihood_power=likelihood_power)

    def likelihood(self, histories: SparseRows) -> GaussianLikelihood:
        """``log p(x | z)`` of these users, ready to be evaluated at many z.

        Costs ``O(nnz * latent + users * latent^2 + items * latent^2)``, once.
        """
        statistics = self._statistics(histories)
        return statistics.likelihood(statistics.posterior(1.0).mean).to(self.weight.dtype)

    def log_likelihood(
        self, latent: Float[Tensor, "*draws users latent"], histories: SparseRows
    ) -> Float[Tensor, "*draws users"]:
        """``log p(x | z)`` in nats, with the normaliser; differentiable in ``latent``."""
        return self.likelihood(histories)(latent)

    def log_evidence(self, histories: SparseRows) -> Float[Tensor, " users"]:
        """``log p(x)`` in nats, exact, without a matrix over the items.

        ``log p(x|z) + log p(z) - log p(z|x)`` at the posterior mean, which by Woodbury's identity and the
        determinant lemma is the density of ``N(mean, W W' + noise_variance I)``. Differentiable in the parameters.
        """
        statistics = self._statistics(histories)
        mean, _, scale_tril = statistics.posterior(1.0)
        at_mean = statistics.likelihood(mean).at_centre
        log_volume = scale_tril.diagonal().log().sum()
        return (at_mean - 0.5 * mean.square().sum(dim=-1) + log_volume).to(self.weight.dtype)

    @torch.no_grad()
    def simulate(
        self, n_users: int, generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, "users latent"], Float[Tensor, "users items"]]:
        """Draw tastes from the prior and histories given them, as real numbers: ``(z, x)``."""
        check_positive("n_users", n_users)

        def normal(width: int) -> Tensor:
            like = self.weight
            return torch.randn(n_users, width, generator=generator, dtype=like.dtype, device=like.device)

        latent = normal(self.latent_dim)
        return latent, self.decode(latent) + self.noise_variance.sqrt() * normal(self.n_items)

    @torch.no_grad()
    def score(self, histories: csr_array) -> Float[Tensor, "users items"]:
        """The posterior predictive mean, ``W E[z|x] + mean``."""
        return self.decode(self.posterior(histories).mean)

    @torch.no_grad()
    def user_vectors(self, histories: csr_array) -> Float[Tensor, "users latent_plus_one"]:
        """Vectors whose inner products with :meth:`item_vectors` are the scores: the posterior mean, then a 1."""
        mean = self.posterior(histories).mean
        return torch.cat([mean, mean.new_ones(len(mean), 1)], dim=-1)

    @torch.no_grad()
    def item_vectors(self) -> Float[Tensor, "items latent_plus_one"]:
        """Weights, then the items' means."""
        return torch.cat([self.weight, self.mean.unsqueeze(-1)], dim=-1)

    def _statistics(self, histories: SparseRows) -> _Statistics:
        if histories.n_items != self.n_items:
            raise UserError(
                f"histories: expected {self.n_items} items (the model's), came {histories.n_items}"
            )
        weight, mean, noise_variance = (_wide(t) for t in (self.weight, self.mean, self.noise_variance))
        products = sparse_product(histories, torch.cat([weight, mean.unsqueeze(-1)], dim=-1))
        squares = histories.row_sums(_wide(histories.values).square())
        return _Statistics(
            projection=products[:, :-1] - mean @ weight,
            squared_norm=squares - 2.0 * products[:, -1] + mean @ mean,
            gram=weight.mT @ weight,
            noise_variance=noise_variance,
            n_items=self.n_items,
        )


def _wide(tensor: Tensor) -> Tensor:
    """In float64, where the device has it."""
    return tensor if tensor.device.type == "mps" else tensor.double()
