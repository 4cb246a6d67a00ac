"""Gaussian data of unknown mean and variance under a Normal-inverse-gamma prior (Prince 2012, chapters 3 and 4)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from recsys_vae.errors import UserError
from recsys_vae.estimation.arguments import (
    Numbers,
    broadcast,
    common_shape,
    finite,
    groups,
    observations,
    positive,
    total_by_group,
)
from recsys_vae.estimation.conjugate import ConjugateModel, above_zero, constant
from recsys_vae.estimation.continuous_laws import InverseGamma, StudentT
from recsys_vae.estimation.laws import SampleShape, full_shape


@dataclass(frozen=True)
class GaussianStatistics:
    """``count`` of the observations, their ``mean``, and ``scatter``, the sum of squares about it.

    Sums of squares about zero would lose the digits of data that lie far from it.
    """

    count: Float[Tensor, "*batch"]
    mean: Float[Tensor, "*batch"]
    scatter: Float[Tensor, "*batch"]

    @classmethod
    def of(cls, x: Numbers) -> GaussianStatistics:
        """Of data ``(*batch, n)``; ``n`` may be 0."""
        values = observations("x", finite("x", x))
        n = values.shape[-1]
        mean = values.sum(dim=-1) / max(n, 1)
        scatter = (values - mean.unsqueeze(-1)).square().sum(dim=-1)
        return cls(torch.full_like(mean, n), mean, scatter)

    @classmethod
    def of_groups(cls, x: Numbers, labels: Numbers, n_groups: int) -> GaussianStatistics:
        """Of many groups of unequal size: ``x`` is flat, ``labels`` tells the group of each value."""
        values = finite("x", x)
        index = groups(values, labels, n_groups)
        count = total_by_group(torch.ones_like(values), index, n_groups)
        mean = total_by_group(values, index, n_groups) / count.clamp_min(1.0)
        return cls(count, mean, total_by_group((values - mean[index]).square(), index, n_groups))


class NormalInverseGamma(ConjugateModel[GaussianStatistics]):
    """``mean | variance ~ N(delta, variance / gamma)`` and ``variance ~ inverse-gamma(alpha, beta)``.

    >>> prior = NormalInverseGamma(alpha=1.0, beta=1.0, gamma=1.0, delta=0.0)
    >>> [round(float(number), 4) for number in prior.map([1.0, 2.0, 3.0])]
    [1.5, 0.875]

    Args:
        alpha, beta: shape and scale of the variance's law, positive; ``2 alpha`` is worth as many observations of the
            variance.
        gamma: positive; how many observations the prior mean is worth.
        delta: the prior mean.

    Raises :class:`UserError` for hyper-parameters out of range or of shapes that do not broadcast.
    """

    def __init__(self, alpha: Numbers, beta: Numbers, gamma: Numbers, delta: Numbers) -> None:
        self.alpha = positive("alpha", alpha)
        self.beta = positive("beta", beta)
        self.gamma = positive("gamma", gamma)
        self.delta = finite("delta", delta)
        self.batch_shape = broadcast(
            **{name: getattr(self, name).shape for name in ("alpha", "beta", "gamma", "delta")}
        )

    @classmethod
    def jeffreys(cls) -> NormalInverseGamma:
        """Jeffreys' rule for both parameters, ``p(mean, variance) ∝ variance^(-3/2)``: the limit of alpha, beta and
        gamma going to 0. (Holding the mean's and the variance's priors apart gives :meth:`reference`.)
        """
        return cls._of(constant(0.0), constant(0.0), constant(0.0), constant(0.0))

    @classmethod
    def reference(cls) -> NormalInverseGamma:
        """``p(mean, variance) ∝ 1 / variance``, under which intervals of the mean are those of the t-test."""
        return cls._of(constant(-0.5), constant(0.0), constant(0.0), constant(0.0))

    @classmethod
    def flat(cls) -> NormalInverseGamma:
        """A constant density in mean and variance, whose joint mode is maximum likelihood."""
        return cls._of(constant(-1.5), constant(0.0), constant(0.0), constant(0.0))

    @classmethod
    def _of(cls, alpha: Tensor, beta: Tensor, gamma: Tensor, delta: Tensor) -> NormalInverseGamma:
        made = cls.__new__(cls)
        made.alpha, made.beta, made.gamma, made.delta = alpha, beta, gamma, delta
        made.batch_shape = common_shape(alpha.shape, beta.shape, gamma.shape, delta.shape)
        return made

    def statistics(self, *data: Any) -> GaussianStatistics:
        """Of ``x (*batch, n)``."""
        (x,) = data
        found = x if isinstance(x, GaussianStatistics) else GaussianStatistics.of(x)
        broadcast(x=found.count.shape, hyper_parameters=self.batch_shape)
        return found

    def updated(self, statistics: GaussianStatistics) -> NormalInverseGamma:
        """Prince's section 4.4, with the sums of squares about the mean in place of those about 0."""
        n, mean = statistics.count, statistics.mean
        gamma = self.gamma + n
        # Of a flat prior without data both are 0, and the mean is anywhere.
        share = torch.where(gamma > 0, n / gamma, 0.0)
        delta = self.delta + share * (mean - self.delta)
        between = self.gamma * share * (mean - self.delta).square()
        beta = self.beta + 0.5 * (statistics.scatter + between)
        return self._of(self.alpha + 0.5 * n, beta, gamma, delta)

    @staticmethod
    def maximum_likelihood(x: Numbers | GaussianStatistics) -> tuple[Tensor, Tensor]:
        """Mean, and variance with the divisor ``n``; each ``(*batch)``.

        Raises :class:`UserError` without data.
        """
        found = x if isinstance(x, GaussianStatistics) else GaussianStatistics.of(x)
        if not above_zero(found.count):
            raise UserError("x: expected at least one observation in each problem, came none")
        return found.mean, found.scatter / found.count

    @property
    def mode(self) -> tuple[Tensor, Tensor]:
        """``(mean, variance)`` of the highest joint density: ``delta`` and ``beta / (alpha + 3/2)``."""
        mean = torch.where(self.gamma > 0, self.delta, torch.nan)
        return mean, self.beta / (self.alpha + 1.5)

    @property
    def marginal_mode(self) -> tuple[Tensor, Tensor]:
        """The mean's marginal has its mode at ``delta``, the variance's at ``beta / (alpha + 1)``."""
        mean = torch.where(self.gamma > 0, self.delta, torch.nan)
        return mean, self.beta / (self.alpha + 1.0)

    @property
    def proper(self) -> bool:
        """Whether alpha, beta and gamma are all above 0."""
        return above_zero(self.alpha, self.beta, self.gamma)

    @property
    def log_normaliser(self) -> Float[Tensor, "*batch"]:
        """Without the ``2 pi`` of the mean, which is in :meth:`log_base_measure`'s place already."""
        return torch.lgamma(self.alpha) - self.alpha * self.beta.log() - 0.5 * self.gamma.log()

    def log_base_measure(self, statistics: GaussianStatistics) -> Float[Tensor, "*batch"]:
        """``(2 pi)^(-n / 2)``."""
        return -0.5 * math.log(2.0 * math.pi) * statistics.count

    @property
    def mean_law(self) -> StudentT:
        """The mean's marginal law."""
        self.require_proper("mean_law")
        return StudentT(2.0 * self.alpha, self.delta, (self.beta / (self.alpha * self.gamma)).sqrt())

    @property
    def variance_law(self) -> InverseGamma:
        """The variance's marginal law."""
        self.require_proper("variance_law")
        return InverseGamma(self.alpha, self.beta)

    def predictive(self, x: Numbers | GaussianStatistics | None = None) -> StudentT:
        """The law of the next observation, after ``x`` where it is given: Student's t with ``2 alpha`` degrees."""
        law = self if x is None else self.posterior(x)
        law.require_proper("predictive")
        scale = (law.beta * (1.0 + law.gamma) / (law.alpha * law.gamma)).sqrt()
        return StudentT(2.0 * law.alpha, law.delta, scale)

    def log_prob(self, mean: Numbers, variance: Numbers) -> Float[Tensor, ...]:
        """Log-density of a mean and a variance."""
        self.require_proper("log_prob")
        spread = positive("variance", variance)
        deviation = self.gamma * (finite("mean", mean) - self.delta).square() / spread
        of_mean = 0.5 * (self.gamma.log() - math.log(2.0 * math.pi) - spread.log() - deviation)
        return of_mean + self.variance_law.log_prob(spread)

    def sample(
        self, sample_shape: SampleShape = (), generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draws of ``(mean, variance)``, each ``(*sample_shape, *batch)``."""
        size = full_shape(sample_shape, self.batch_shape)
        law = self.variance_law
        variance = InverseGamma(law.alpha.expand(self.batch_shape), law.beta).sample(sample_shape, generator)
        normal = torch.randn(size, dtype=torch.float64, generator=generator)
        return self.delta + (variance / self.gamma).sqrt() * normal, variance
