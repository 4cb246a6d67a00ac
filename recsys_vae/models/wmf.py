"""Weighted matrix factorisation of implicit feedback (Hu, Koren & Volinsky 2008) with iALS++'s regularisation.

Y. Hu, Y. Koren, C. Volinsky, "Collaborative Filtering for Implicit Feedback Datasets", ICDM 2008; S. Rendle, W.
Krichene, L. Zhang, Y. Koren, "Revisiting the Performance of iALS on Item Recommendation Benchmarks" (arXiv:2110.14037).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse import csr_array
from torch import Tensor

from recsys_vae.errors import UserError
from recsys_vae.models.base import IterativeModel, check_interval, check_positive
from recsys_vae.models.fit_checkpoint import NO_CHECKPOINT, FitCheckpoint
from recsys_vae.models.gaussian_posterior import GaussianPosterior
from recsys_vae.models.progress import Progress
from recsys_vae.models.sparse_rows import SparseRows
from recsys_vae.models.weighted_factorisation import Side, WeightedFactorisation

log = logging.getLogger(__name__)

# A pair's, at least: float32 factors cannot come closer, and with none at all there is no posterior.
_LEAST_NOISE_VARIANCE = 1e-12


class Fold(NamedTuple):
    """``N(mean, covariance)`` over each user's taste z; ``covariance = scale_tril scale_tril'``."""

    mean: Float[Tensor, "users latent"]
    covariance: Float[Tensor, "users latent latent"]
    scale_tril: Float[Tensor, "users latent latent"]

    def marginals(self) -> GaussianPosterior:
        """The same means and variances without the correlations."""
        return GaussianPosterior(self.mean, self.covariance.diagonal(dim1=-2, dim2=-1).log())


@dataclass(frozen=True)
class QuadraticLikelihood:
    """``log p(x | z)`` in nats, expanded about the posterior mean ``centre``, where its gradient is the centre itself
    (that of the log-prior is its negative): ``at_centre + centre'd - d' curvature d / 2`` with ``d = z - centre``.
    """

    centre: Float[Tensor, "users latent"]
    at_centre: Float[Tensor, " users"]
    curvature: Float[Tensor, "users latent latent"]

    def __call__(self, latent: Float[Tensor, "*draws users latent"]) -> Float[Tensor, "*draws users"]:
        """With the normaliser; differentiable in ``latent``."""
        return self.at_centre + self.log_ratio(latent)

    def log_ratio(self, latent: Float[Tensor, "*draws users latent"]) -> Float[Tensor, "*draws users"]:
        """``log p(x | latent) - log p(x | centre)``."""
        offset = latent - self.centre
        return (offset * (self.centre - 0.5 * self._bend(offset))).sum(dim=-1)

    def value_and_gradient(
        self, latent: Float[Tensor, "*draws users latent"]
    ) -> tuple[Float[Tensor, "*draws users"], Float[Tensor, "*draws users latent"]]:
        """The log-likelihood and its gradient with respect to ``latent``, from one product."""
        offset = latent - self.centre
        bent = self._bend(offset)
        return self.at_centre + (offset * (self.centre - 0.5 * bent)).sum(dim=-1), self.centre - bent

    def fisher_information(
        self, latent: Float[Tensor, "users latent"]
    ) -> Float[Tensor, "users latent latent"]:
        """Minus the Hessian, the same at every z."""
        return self.curvature

    def _bend(self, offset: Tensor) -> Tensor:
        return (self.curvature @ offset.unsqueeze(-1)).squeeze(-1)


class WMF(IterativeModel):
    """``p_ui ~ N(x_u'y_i, noise_variance / c_ui)``: MAP of the factors x and y under Gaussian priors, by alternation.

    ``p_ui`` is 1 where user u has item i, else 0; the confidence ``c_ui`` is ``unobserved_weight + r_ui``, ``r_ui`` the
    value of the interaction, 0 without one. The objective is Hu, Koren & Volinsky's equation 3 over their alpha::

        sum_ui c_ui (p_ui - x_u'y_i)^2 + sum_u lambda_u |x_u|^2 + sum_i lambda_i |y_i|^2

    ``lambda_u = l2 * (sum_i c_ui)^frequency_exponent``, and ``lambda_i`` likewise over users (Rendle et al. 2021,
    section 3.2): so ``x_u ~ N(0, noise_variance / lambda_u)``, and as ``l2`` goes to 0 the fit becomes maximum
    likelihood. The noise variance, the objective's first sum a pair, tells the posterior's width, not its mode.

    Given the items, a user's posterior is Gaussian and exact; folding a new user in is no approximation. The taste
    ``z = x_u * sqrt(lambda_u / noise_variance)`` has a standard normal prior, so its deviation falls from 1 to 0 as the
    history says more.

    Args:
        n_items: size of the catalogue; comes from the data.
        latent_dim: the rank; at most the number of items and of training users.
        l2: scale of the regularisation.
        unobserved_weight: confidence in a pair without interaction, where one with an interaction of 1 has 1 more.
        frequency_exponent: 0 regularises all users alike, 1 as much as they weigh in the sum of squares.
        n_iterations: alternations.
        n_steps: of conjugate gradients for each side and alternation, warm-started.
        seed: of the initial factors.
    """

    def __init__(
        self,
        n_items: int,
        latent_dim: int = 64,
        l2: float = 0.01,
        unobserved_weight: float = 0.25,
        frequency_exponent: float = 1.0,
        n_iterations: int = 15,
        n_steps: int = 3,
        seed: int = 0,
    ) -> None:
        super().__init__(n_items)
        check_positive("model.latent_dim", latent_dim)
        check_positive("model.n_iterations", n_iterations)
        check_positive("model.n_steps", n_steps)
        check_interval("model.l2", l2, 0.0, math.inf, include_low=False)
        check_interval("model.unobserved_weight", unobserved_weight, 0.0, math.inf, include_low=False)
        check_interval("model.frequency_exponent", frequency_exponent, 0.0, 2.0, include_high=True)
        check_rank(latent_dim, n_items, "items")
        self.latent_dim = latent_dim
        self.l2 = l2
        self.unobserved_weight = unobserved_weight
        self.frequency_exponent = frequency_exponent
        self.n_iterations = n_iterations
        self.n_steps = n_steps
        self.seed = seed
        self.item_factors: Tensor
        self.noise_variance: Tensor
        self.register_buffer("item_factors", torch.zeros(n_items, latent_dim))
        self.register_buffer("noise_variance", torch.ones(()))

    def fit(self, matrix: csr_array, checkpoint: FitCheckpoint = NO_CHECKPOINT) -> WMF:
        """Alternate between users and items; ``O(nnz * latent + (users + items) * latent^2)`` a step.

        Raises :class:`UserError` when there are fewer users than ``latent_dim``, a value is not positive, or ``l2`` is
        too little for the factors to stay finite.
        """
        self.check_histories(matrix)
        check_rank(self.latent_dim, matrix.shape[0], "training users")
        check_weights(matrix)
        progress = Progress(log, "wmf", self.n_iterations)
        for state in self.alternations(matrix, checkpoint):
            progress(state.n_done)
        if not (state.items.isfinite().all() and state.users.isfinite().all()):
            raise UserError(
                f"model.l2: expected enough for finite factors, came {self.l2}, which leaves none"
            )
        self.item_factors.copy_(state.items)
        noise_variance = state.squared_error() / (matrix.shape[0] * self.n_items)
        self.noise_variance.fill_(max(noise_variance, _LEAST_NOISE_VARIANCE))
        log.info("wmf: objective %.1f, noise variance %.4g", state.objective(), float(self.noise_variance))
        return self

    def alternations(
        self, matrix: csr_array, checkpoint: FitCheckpoint = NO_CHECKPOINT
    ) -> Iterator[Alternation]:
        """The state after each alternation that the checkpoint leaves to do."""
        dtype = self.item_factors.dtype
        by_user, by_item = Side.of(matrix, dtype), Side.of(csr_array(matrix.T.tocsr()), dtype)
        user_problem, item_problem = self.problem(by_user), self.problem(by_item)
        user_pattern, item_pattern = by_user.pattern(), by_item.pattern()
        generator = torch.Generator().manual_seed(self.seed)
        # Rendle et al. 2021, section 4.2: N(0, 0.1^2 / latent_dim).
        users, items = (
            torch.randn(side.n_rows, self.latent_dim, generator=generator, dtype=dtype).mul_(
                0.1 / math.sqrt(self.latent_dim)
            )
            for side in (by_user, by_item)
        )

        def tensors() -> dict[str, Tensor]:
            return {"users": users, "items": items}

        for n_done in checkpoint.iterations(self.n_iterations, tensors):
            users = user_problem.descend(users, items, user_pattern, self.n_steps)
            items = item_problem.descend(items, users, item_pattern, self.n_steps)
            yield Alternation(n_done, users, items, user_problem, item_problem, user_pattern)

    def problem(self, side: Side) -> WeightedFactorisation:
        """What one side minimises; its regularisation by the confidences of each row."""
        weights = side.row_sums(side.values) + self.unobserved_weight * side.n_columns
        penalty = self.l2 * weights.pow(self.frequency_exponent)
        return WeightedFactorisation(side, self.unobserved_weight, penalty)

    def decode(self, latent: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch items"]:
        """``Y z``: the expectation of ``p_u``, but for a factor of each user's own, which changes no ranking."""
        return latent @ self.item_factors.mT

    def exact_posterior(self, histories: SparseRows, *, likelihood_power: float = 1.0) -> Fold:
        """``p(z) p(x | z)^likelihood_power``, normalised, by Cholesky in float64."""
        check_interval("likelihood_power", likelihood_power, 0.0, math.inf)
        problem, factors = self._fold_in(histories)
        n_users, latent_dim, dtype = histories.n_users, self.latent_dim, self.item_factors.dtype
        eye = torch.eye(latent_dim, dtype=factors.dtype)
        # With x = z * sqrt(noise / penalty): precision of z is I + power * (A - penalty) / penalty.
        mean = torch.empty(n_users, latent_dim, dtype=factors.dtype)
        scale_tril = torch.empty(n_users, latent_dim, latent_dim, dtype=factors.dtype)
        noise = self.noise_variance.double().cpu()
        for rows, matrices, right in problem.normal_equations(factors):
            penalty = problem.penalty[rows, None, None]
            precision = torch.lerp(eye, matrices / penalty, likelihood_power)
            # Rows and columns in reverse: precision = U U' with U upper, and U^-T is the covariance's lower factor.
            upper = torch.linalg.cholesky(precision.flip(-2, -1)).flip(-2, -1)
            scale = torch.linalg.solve_triangular(upper, eye, upper=True).mT
            linear = likelihood_power * right.unsqueeze(-1) / (penalty * noise).sqrt()
            mean[rows] = (scale @ (scale.mT @ linear)).squeeze(-1)
            scale_tril[rows] = scale
        device = self.device
        return Fold(
            mean.to(device, dtype),
            (scale_tril @ scale_tril.mT).to(device, dtype),
            scale_tril.to(device, dtype),
        )

    def encode(self, histories: SparseRows, *, likelihood_power: float = 1.0) -> GaussianPosterior:
        """Exact mean and marginal variance of each coordinate of z."""
        return self.exact_posterior(histories, likelihood_power=likelihood_power).marginals()

    @torch.no_grad()
    def posterior(self, histories: csr_array, *, likelihood_power: float = 1.0) -> GaussianPosterior:
        """:meth:`encode` of a matrix."""
        return self.encode(self._rows(histories), likelihood_power=likelihood_power)

    def likelihood(self, histories: SparseRows) -> QuadraticLikelihood:
        """``log p(x | z)`` of these users, ready to be evaluated at many z."""
        problem, factors = self._fold_in(histories)
        centre = self.exact_posterior(histories).mean.double().cpu()
        noise, a, values = self.noise_variance.double().cpu(), self.unobserved_weight, problem.side.values
        users = centre * (noise / problem.penalty).sqrt().unsqueeze(-1)
        curvature = torch.empty(histories.n_users, self.latent_dim, self.latent_dim, dtype=torch.float64)
        for rows, matrices, _ in problem.normal_equations(factors):
            curvature[rows] = matrices / problem.penalty[rows, None, None]
        curvature.diagonal(dim1=-2, dim2=-1).sub_(1.0)
        row_of = torch.repeat_interleave(torch.arange(histories.n_users), problem.side.offsets.diff())
        predicted = (users[row_of] * factors[problem.side.columns]).sum(dim=-1)
        at_pairs = (a + values) * (1.0 - predicted).square() - a * predicted.square()
        everywhere = a * ((users @ (factors.mT @ factors)) * users).sum(dim=-1)
        squared_error = everywhere + problem.side.row_sums(at_pairs)
        # log c of every pair: that of an unobserved one, and what the observed ones have more.
        log_confidence = self.n_items * math.log(a) + problem.side.row_sums((1.0 + values / a).log())
        log_normaliser = 0.5 * (log_confidence - self.n_items * (2.0 * math.pi * noise).log())
        at_centre = log_normaliser - 0.5 * squared_error / noise
        dtype, device = self.item_factors.dtype, self.device
        return QuadraticLikelihood(
            centre.to(device, dtype), at_centre.to(device, dtype), curvature.to(device, dtype)
        )

    @torch.no_grad()
    def score(self, histories: csr_array) -> Float[Tensor, "users items"]:
        """``Y x``, at the posterior mode of x, which is its mean."""
        return self.user_vectors(histories) @ self.item_factors.mT

    @torch.no_grad()
    def user_vectors(self, histories: csr_array) -> Float[Tensor, "users latent"]:
        """``x``, whose inner products with :meth:`item_vectors` are the scores."""
        problem, factors = self._fold_in(self._rows(histories))
        solution = torch.empty(histories.shape[0], self.latent_dim, dtype=factors.dtype)
        for rows, matrices, right in problem.normal_equations(factors):
            factor = torch.linalg.cholesky(matrices)
            solution[rows] = torch.cholesky_solve(right.unsqueeze(-1), factor).squeeze(-1)
        return solution.to(self.device, self.item_factors.dtype)

    @torch.no_grad()
    def item_vectors(self) -> Float[Tensor, "items latent"]:
        """``Y``."""
        return self.item_factors

    def _rows(self, histories: csr_array) -> SparseRows:
        self.check_histories(histories)
        return SparseRows.from_csr(histories, self.device)

    def _fold_in(self, histories: SparseRows) -> tuple[WeightedFactorisation, Float[Tensor, "items latent"]]:
        """The problem of these users and the items' factors, in float64 on the CPU."""
        side = Side(
            histories.offsets.cpu(), histories.items.cpu(), histories.values.double().cpu(), self.n_items
        )
        return self.problem(side), self.item_factors.double().cpu()


@dataclass(frozen=True)
class Alternation:
    """Where the factors are after ``n_done`` alternations."""

    n_done: int
    users: Float[Tensor, "users latent"]
    items: Float[Tensor, "items latent"]
    user_problem: WeightedFactorisation
    item_problem: WeightedFactorisation
    user_pattern: Tensor

    def squared_error(self) -> float:
        """The confidence-weighted sum of squares over all pairs."""
        return self.user_problem.squared_error(self.users, self.items, self.user_pattern)

    def objective(self) -> float:
        """What is minimised."""
        sides = ((self.user_problem, self.users), (self.item_problem, self.items))
        return self.squared_error() + sum(
            float((problem.penalty * factors.double().square().sum(dim=-1)).sum())
            for problem, factors in sides
        )


def check_rank(latent_dim: int, most: int, what: str) -> None:
    """Raise :class:`UserError` when the rank is above the matrix's number of rows or columns."""
    if latent_dim > most:
        raise UserError(f"model.latent_dim: expected at most the number of {what}, {most}, came {latent_dim}")


def check_weights(matrix: csr_array) -> None:
    """Raise :class:`UserError` for an interaction whose value is not a positive number."""
    right = (matrix.data > 0.0) & np.isfinite(matrix.data)
    if not right.all():
        raise UserError(f"matrix: expected positive, finite interactions, came {matrix.data[~right][0]}")
