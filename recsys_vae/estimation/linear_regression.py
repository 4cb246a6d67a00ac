"""Gaussian linear regression under a Normal-inverse-gamma prior (Murphy 2012, section 7.6.3)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from recsys_vae.errors import UserError
from recsys_vae.estimation.arguments import Numbers, broadcast, common_shape, finite, observations, positive
from recsys_vae.estimation.conjugate import ConjugateModel, above_zero, constant
from recsys_vae.estimation.continuous_laws import InverseGamma, StudentT
from recsys_vae.estimation.laws import SampleShape, full_shape


@dataclass(frozen=True)
class RegressionData:
    """One row of ``design`` for each ``response``. Residuals are formed from these: squared sums lose digits."""

    design: Float[Tensor, "*batch rows features"]
    response: Float[Tensor, "*batch rows"]

    @classmethod
    def of(cls, design: Numbers, response: Numbers) -> RegressionData:
        """Checked."""
        rows = observations("design", finite("design", design), axes=2)
        y = observations("response", finite("response", response))
        if rows.shape[-2] != y.shape[-1]:
            raise UserError(f"response: expected {rows.shape[-2]} values, one a row, came {y.shape[-1]}")
        batch = broadcast(design=rows.shape[:-2], response=y.shape[:-1])
        return cls(rows.expand(*batch, *rows.shape[-2:]), y.expand(*batch, y.shape[-1]))


class LinearRegression(ConjugateModel[RegressionData]):
    """``response ~ N(design @ weights, variance)``, ``weights | variance ~ N(delta, variance * gamma^-1)`` and
    ``variance ~ inverse-gamma(alpha, beta)``: the notation of :class:`NormalInverseGamma`, which is the case of one
    feature that is always 1.

    >>> model = LinearRegression(alpha=1.0, beta=1.0, gamma=0.1, delta=[0.0, 0.0])
    >>> model.map([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]], [1.0, 3.0, 5.0])[0]
    tensor([0.9949, 1.9662], dtype=torch.float64)

    Args:
        alpha, beta: shape and scale of the variance's law, positive.
        gamma: precision of the weights in units of the noise's: a positive number, one a feature, or a positive
            definite matrix ``(features, features)``.
        delta: prior mean of the weights, ``(*batch, features)``.

    Raises :class:`UserError` for hyper-parameters out of range or of shapes that do not go together.
    """

    def __init__(self, alpha: Numbers, beta: Numbers, gamma: Numbers, delta: Numbers) -> None:
        self.alpha = positive("alpha", alpha)
        self.beta = positive("beta", beta)
        self.delta = observations("delta", finite("delta", delta))
        self.gamma = _precision(gamma, self.delta.shape[-1])
        self.batch_shape = broadcast(
            alpha=self.alpha.shape,
            beta=self.beta.shape,
            gamma=self.gamma.shape[:-2],
            delta=self.delta.shape[:-1],
        )

    @classmethod
    def jeffreys(cls, n_features: int) -> LinearRegression:
        """Jeffreys' rule for all parameters together, ``p ∝ variance^(-features/2 - 1)``."""
        return cls._limit(0.0, n_features)

    @classmethod
    def reference(cls, n_features: int) -> LinearRegression:
        """``p ∝ 1 / variance``, under which intervals are those of least squares."""
        return cls._limit(-0.5 * n_features, n_features)

    @classmethod
    def flat(cls, n_features: int) -> LinearRegression:
        """A constant density in weights and variance, whose joint mode is maximum likelihood."""
        return cls._limit(-1.0 - 0.5 * n_features, n_features)

    @classmethod
    def _limit(cls, alpha: float, n_features: int) -> LinearRegression:
        zeros = torch.zeros(n_features, dtype=torch.float64)
        return cls._of(constant(alpha), constant(0.0), torch.diag(zeros), zeros)

    @classmethod
    def _of(cls, alpha: Tensor, beta: Tensor, gamma: Tensor, delta: Tensor) -> LinearRegression:
        made = cls.__new__(cls)
        made.alpha, made.beta, made.gamma, made.delta = alpha, beta, gamma, delta
        made.batch_shape = common_shape(alpha.shape, beta.shape, gamma.shape[:-2], delta.shape[:-1])
        return made

    @property
    def n_features(self) -> int:
        """Columns of the design."""
        return int(self.delta.shape[-1])

    def statistics(self, *data: Any) -> RegressionData:
        """``design (*batch, rows, features)`` and ``response (*batch, rows)``."""
        found = data[0] if isinstance(data[0], RegressionData) else RegressionData.of(*data)
        if found.design.shape[-1] != self.n_features:
            raise UserError(
                f"design: expected {self.n_features} columns, one a feature, came {found.design.shape[-1]}"
            )
        broadcast(data=found.response.shape[:-1], hyper_parameters=self.batch_shape)
        return found

    def updated(self, statistics: RegressionData) -> LinearRegression:
        """Normal equations about the prior mean, and the squares that are left at their solution.

        Raises :class:`UserError` where a limiting prior leaves the weights undetermined.
        """
        design, response = statistics.design, statistics.response
        gamma = self.gamma + design.mT @ design
        factor, wrong = torch.linalg.cholesky_ex(gamma)
        if wrong.any():
            raise UserError(
                "design: expected columns that are not multiples of each other, for the prior leaves the weights "
                f"open; came {design.shape[-2]} rows of lower rank than {self.n_features}"
            )
        missed = response - _apply(design, self.delta)
        step = torch.cholesky_solve(design.mT @ missed.unsqueeze(-1), factor).squeeze(-1)
        residual = missed - _apply(design, step)
        squares = residual.square().sum(dim=-1) + (step * _apply(self.gamma, step)).sum(dim=-1)
        return self._of(
            self.alpha + 0.5 * response.shape[-1], self.beta + 0.5 * squares, gamma, self.delta + step
        )

    @staticmethod
    def maximum_likelihood(design: Any, response: Any = None) -> tuple[Tensor, Tensor]:
        """Weights by least squares ``(*batch, features)``, and the mean squared residual.

        Raises :class:`UserError` for a design of lower rank than it has columns.
        """
        found = design if isinstance(design, RegressionData) else RegressionData.of(design, response)
        n_rows, n_features = found.design.shape[-2:]
        if n_rows < n_features or (torch.linalg.matrix_rank(found.design) < n_features).any():
            raise UserError(f"design: expected rank {n_features}, one for each column, came less")
        weights = torch.linalg.lstsq(found.design, found.response.unsqueeze(-1)).solution.squeeze(-1)
        residual = found.response - _apply(found.design, weights)
        return weights, residual.square().mean(dim=-1)

    @property
    def mode(self) -> tuple[Tensor, Tensor]:
        """``(weights, variance)`` of the highest joint density: ``delta``, ``beta / (alpha + 1 + features / 2)``."""
        return self._weights_mode(), self.beta / (self.alpha + 1.0 + 0.5 * self.n_features)

    @property
    def marginal_mode(self) -> tuple[Tensor, Tensor]:
        """The weights' marginal has its mode at ``delta``, the variance's at ``beta / (alpha + 1)``."""
        return self._weights_mode(), self.beta / (self.alpha + 1.0)

    def _weights_mode(self) -> Float[Tensor, "*batch features"]:
        open_weights = torch.linalg.cholesky_ex(self.gamma).info > 0
        return torch.where(open_weights.unsqueeze(-1), torch.nan, self.delta)

    @property
    def proper(self) -> bool:
        """Whether alpha and beta are above 0 and gamma is positive definite."""
        return above_zero(self.alpha, self.beta) and not torch.linalg.cholesky_ex(self.gamma).info.any()

    @property
    def log_normaliser(self) -> Float[Tensor, "*batch"]:
        """Without the weights' ``2 pi``, which cancels between prior and posterior."""
        log_determinant = 2.0 * self._factor.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)
        return torch.lgamma(self.alpha) - self.alpha * self.beta.log() - 0.5 * log_determinant

    def log_base_measure(self, statistics: RegressionData) -> Float[Tensor, "*batch"]:
        """``(2 pi)^(-rows / 2)``."""
        n_rows = statistics.response.shape[-1]
        return statistics.response.new_full(
            statistics.response.shape[:-1], -0.5 * n_rows * math.log(2.0 * math.pi)
        )

    @property
    def variance_law(self) -> InverseGamma:
        """The noise variance's marginal law."""
        self.require_proper("variance_law")
        return InverseGamma(self.alpha, self.beta)

    @property
    def weight_laws(self) -> StudentT:
        """The marginal law of each weight, ``(*batch, features)``."""
        self.require_proper("weight_laws")
        variances = torch.cholesky_inverse(self._factor).diagonal(dim1=-2, dim2=-1)
        scale = ((self.beta / self.alpha).unsqueeze(-1) * variances).sqrt()
        return StudentT((2.0 * self.alpha).unsqueeze(-1), self.delta, scale)

    def predictive(self, at: Numbers, *data: Any) -> StudentT:
        """The law of the response at each row of ``at (*batch, rows, features)``, after ``data`` where given."""
        law = self.posterior(*data) if data else self
        law.require_proper("predictive")
        rows = observations("at", finite("at", at), axes=2)
        if rows.shape[-1] != self.n_features:
            raise UserError(f"at: expected {self.n_features} columns, one a feature, came {rows.shape[-1]}")
        broadcast(at=rows.shape[:-2], hyper_parameters=law.batch_shape)
        batch = common_shape(rows.shape[:-2], law._factor.shape[:-2])
        right = rows.mT.expand(*batch, self.n_features, rows.shape[-2])
        spread = torch.linalg.solve_triangular(law._factor, right, upper=False).square().sum(dim=-2)
        scale = ((law.beta / law.alpha).unsqueeze(-1) * (1.0 + spread)).sqrt()
        return StudentT((2.0 * law.alpha).unsqueeze(-1), _apply(rows, law.delta), scale)

    def log_prob(self, weights: Numbers, variance: Numbers) -> Float[Tensor, ...]:
        """Log-density of weights ``(..., features)`` and a variance."""
        self.require_proper("log_prob")
        spread = positive("variance", variance)
        off = finite("weights", weights) - self.delta
        distance = _apply(self._factor.mT, off).square().sum(dim=-1) / spread
        log_root = self._factor.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)
        of_weights = log_root - 0.5 * (self.n_features * (math.log(2.0 * math.pi) + spread.log()) + distance)
        return of_weights + self.variance_law.log_prob(spread)

    def sample(
        self, sample_shape: SampleShape = (), generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draws of ``(weights, variance)``: ``(*sample_shape, *batch, features)`` and ``(*sample_shape, *batch)``."""
        law = self.variance_law
        variance = InverseGamma(law.alpha.expand(self.batch_shape), law.beta).sample(sample_shape, generator)
        size = full_shape(sample_shape, self.batch_shape, (self.n_features, 1))
        normal = torch.randn(size, dtype=torch.float64, generator=generator)
        factor = self._factor.mT.expand(*size[:-2], self.n_features, self.n_features)
        noise = torch.linalg.solve_triangular(factor, normal, upper=True).squeeze(-1)
        return self.delta + variance.sqrt().unsqueeze(-1) * noise, variance

    @property
    def _factor(self) -> Tensor:
        factor: Tensor = torch.linalg.cholesky(self.gamma)
        return factor


def _apply(matrix: Tensor, vector: Tensor) -> Tensor:
    product: Tensor = matrix @ vector.unsqueeze(-1)
    return product.squeeze(-1)


def _precision(gamma: Numbers, n_features: int) -> Float[Tensor, "*batch features features"]:
    values = finite("gamma", gamma)
    if values.ndim < 2:
        values = positive("gamma", values)
        broadcast(gamma=values.shape, features=(n_features,))
        return torch.diag(values.expand(n_features))
    if values.shape[-2:] != (n_features, n_features):
        raise UserError(
            f"gamma: expected matrices of {n_features} by {n_features}, came {tuple(values.shape[-2:])}"
        )
    symmetric = torch.allclose(values, values.mT, rtol=1e-10, atol=0.0)
    if not symmetric or torch.linalg.cholesky_ex(values).info.any():
        raise UserError("gamma: expected a symmetric positive definite matrix, came one that is not")
    return values
