"""Poisson counts under a gamma prior (Gelman et al. 2013, section 2.6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from recsys_vae.errors import UserError
from recsys_vae.estimation.arguments import Numbers, broadcast, common_shape, counts, observations, positive
from recsys_vae.estimation.conjugate import ConjugateModel, above_zero, constant
from recsys_vae.estimation.continuous_laws import Gamma
from recsys_vae.estimation.discrete_laws import NegativeBinomial


@dataclass(frozen=True)
class PoissonStatistics:
    """``total`` of the counts, the ``exposure`` they were made over, and the logarithm of the factor without rate.

    ``exposure`` is the number of counts, or the sum of the lengths of time (or the like) of each.
    """

    exposure: Float[Tensor, "*batch"]
    total: Float[Tensor, "*batch"]
    log_factor: Float[Tensor, "*batch"]

    @classmethod
    def of(cls, x: Numbers, exposure: Numbers = 1.0) -> PoissonStatistics:
        """Of counts ``(*batch, n)``, each over its ``exposure``, which broadcasts."""
        values = observations("x", counts("x", x))
        lengths = positive("exposure", exposure)
        broadcast(x=values.shape, exposure=lengths.shape)
        lengths = lengths.expand(values.shape)
        log_factor = (values * lengths.log() - torch.lgamma(values + 1.0)).sum(dim=-1)
        return cls(lengths.sum(dim=-1), values.sum(dim=-1), log_factor)


class GammaPoisson(ConjugateModel[PoissonStatistics]):
    """A rate under ``Gamma(shape, rate)``.

    >>> GammaPoisson(shape=2.0, rate=1.0).posterior([3, 4]).law.mean
    tensor(3., dtype=torch.float64)

    Args:
        shape: positive.
        rate: positive; how much exposure the prior is worth.

    Raises :class:`UserError` for hyper-parameters out of range or of shapes that do not broadcast.
    """

    def __init__(self, shape: Numbers, rate: Numbers) -> None:
        self.shape = positive("shape", shape)
        self.rate = positive("rate", rate)
        self.batch_shape = broadcast(shape=self.shape.shape, rate=self.rate.shape)

    @classmethod
    def jeffreys(cls) -> GammaPoisson:
        """The improper limit ``Gamma(1/2, 0)``, with a density proportional to ``rate^(-1/2)``."""
        return cls._of(constant(0.5), constant(0.0))

    @classmethod
    def flat(cls) -> GammaPoisson:
        """The improper limit ``Gamma(1, 0)``, whose posterior mode is maximum likelihood."""
        return cls._of(constant(1.0), constant(0.0))

    @classmethod
    def _of(cls, shape: Tensor, rate: Tensor) -> GammaPoisson:
        made = cls.__new__(cls)
        made.shape, made.rate = shape, rate
        made.batch_shape = common_shape(shape.shape, rate.shape)
        return made

    def statistics(self, *data: Any) -> PoissonStatistics:
        """Of ``x (*batch, n)``, whole numbers."""
        (x,) = data
        found = x if isinstance(x, PoissonStatistics) else PoissonStatistics.of(x)
        broadcast(x=found.total.shape, hyper_parameters=self.batch_shape)
        return found

    def updated(self, statistics: PoissonStatistics) -> GammaPoisson:
        """Add the counts to the shape and the exposure to the rate."""
        return self._of(self.shape + statistics.total, self.rate + statistics.exposure)

    @staticmethod
    def maximum_likelihood(x: Numbers | PoissonStatistics) -> Float[Tensor, "*batch"]:
        """Counts per exposure. Raises :class:`UserError` without data."""
        found = x if isinstance(x, PoissonStatistics) else PoissonStatistics.of(x)
        if not above_zero(found.exposure):
            raise UserError("x: expected at least one observation in each problem, came none")
        return found.total / found.exposure

    @property
    def mode(self) -> Float[Tensor, "*batch"]:
        """``(shape - 1) / rate``, or 0; NaN for a rate of 0."""
        highest = (self.shape - 1.0).clamp_min(0.0) / self.rate
        return torch.where(self.rate > 0, highest, torch.nan)

    @property
    def marginal_mode(self) -> Float[Tensor, "*batch"]:
        """There is one parameter, so it is the joint mode."""
        return self.mode

    @property
    def proper(self) -> bool:
        """Whether shape and rate are above 0."""
        return above_zero(self.shape, self.rate)

    @property
    def log_normaliser(self) -> Float[Tensor, "*batch"]:
        """Of the gamma density."""
        return torch.lgamma(self.shape) - self.shape * self.rate.log()

    def log_base_measure(self, statistics: PoissonStatistics) -> Float[Tensor, "*batch"]:
        """The factorials and exposures."""
        return statistics.log_factor

    @property
    def law(self) -> Gamma:
        """The law of the rate."""
        self.require_proper("law")
        return Gamma(self.shape, self.rate)

    def predictive(
        self, x: Numbers | PoissonStatistics | None = None, *, exposure: Numbers = 1.0
    ) -> NegativeBinomial:
        """The law of the next count over ``exposure``, after ``x`` where it is given."""
        law = (self if x is None else self.posterior(x)).law
        return NegativeBinomial(law.shape, law.rate, positive("exposure", exposure))
