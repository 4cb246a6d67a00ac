"""Yes-or-no data under a beta prior (Bishop 2006, section 2.1.1; Prince 2012, chapter 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from recsys_vae.errors import UserError
from recsys_vae.estimation.arguments import (
    Numbers,
    binary,
    broadcast,
    common_shape,
    counts,
    observations,
    positive,
)
from recsys_vae.estimation.conjugate import ConjugateModel, above_zero, constant
from recsys_vae.estimation.continuous_laws import Beta
from recsys_vae.estimation.discrete_laws import Bernoulli, BetaBinomial, log_beta


@dataclass(frozen=True)
class BernoulliStatistics:
    """How many of the ``trials`` were ``successes``; ``log_choose`` is 0 unless only their number is the datum."""

    trials: Float[Tensor, "*batch"]
    successes: Float[Tensor, "*batch"]
    log_choose: Float[Tensor, "*batch"]

    @classmethod
    def of(cls, x: Numbers) -> BernoulliStatistics:
        """Of zeros and ones ``(*batch, n)``."""
        values = observations("x", binary("x", x))
        successes = values.sum(dim=-1)
        return cls(torch.full_like(successes, values.shape[-1]), successes, torch.zeros_like(successes))

    @classmethod
    def of_binomial(cls, trials: Numbers, successes: Numbers) -> BernoulliStatistics:
        """Of a binomial count a problem: the evidence is then that of the count, not of a sequence with it."""
        n, k = counts("trials", trials), counts("successes", successes)
        shape = broadcast(trials=n.shape, successes=k.shape)
        n, k = n.expand(shape), k.expand(shape)
        if (k > n).any():
            raise UserError(
                f"successes: expected at most trials, came {float(k[k > n][0]):g} of {float(n[k > n][0]):g}"
            )
        log_choose = torch.lgamma(n + 1.0) - torch.lgamma(k + 1.0) - torch.lgamma(n - k + 1.0)
        return cls(n, k, log_choose)


class BetaBernoulli(ConjugateModel[BernoulliStatistics]):
    """A probability of success under ``Beta(alpha, beta)``.

    >>> BetaBernoulli(alpha=2.0, beta=2.0).posterior([1, 1, 0]).law.mean
    tensor(0.5714, dtype=torch.float64)

    Args:
        alpha, beta: positive: successes and failures that the prior is worth, about.

    Raises :class:`UserError` for hyper-parameters out of range or of shapes that do not broadcast.
    """

    def __init__(self, alpha: Numbers, beta: Numbers) -> None:
        self.alpha = positive("alpha", alpha)
        self.beta = positive("beta", beta)
        self.batch_shape = broadcast(alpha=self.alpha.shape, beta=self.beta.shape)

    @classmethod
    def jeffreys(cls) -> BetaBernoulli:
        """``Beta(1/2, 1/2)``, which is proper."""
        return cls(0.5, 0.5)

    @classmethod
    def flat(cls) -> BetaBernoulli:
        """``Beta(1, 1)``, whose posterior mode is maximum likelihood."""
        return cls(1.0, 1.0)

    @classmethod
    def haldane(cls) -> BetaBernoulli:
        """The improper limit ``Beta(0, 0)``, flat in the logit, whose posterior mean is maximum likelihood."""
        return cls._of(constant(0.0), constant(0.0))

    @classmethod
    def _of(cls, alpha: Tensor, beta: Tensor) -> BetaBernoulli:
        made = cls.__new__(cls)
        made.alpha, made.beta = alpha, beta
        made.batch_shape = common_shape(alpha.shape, beta.shape)
        return made

    def statistics(self, *data: Any) -> BernoulliStatistics:
        """Of ``x (*batch, n)``, zeros and ones."""
        (x,) = data
        found = x if isinstance(x, BernoulliStatistics) else BernoulliStatistics.of(x)
        broadcast(x=found.trials.shape, hyper_parameters=self.batch_shape)
        return found

    def updated(self, statistics: BernoulliStatistics) -> BetaBernoulli:
        """Add the successes to alpha and the failures to beta."""
        failures = statistics.trials - statistics.successes
        return self._of(self.alpha + statistics.successes, self.beta + failures)

    @staticmethod
    def maximum_likelihood(x: Numbers | BernoulliStatistics) -> Float[Tensor, "*batch"]:
        """The share of successes. Raises :class:`UserError` without data."""
        found = x if isinstance(x, BernoulliStatistics) else BernoulliStatistics.of(x)
        if not above_zero(found.trials):
            raise UserError("x: expected at least one observation in each problem, came none")
        return found.successes / found.trials

    @property
    def mode(self) -> Float[Tensor, "*batch"]:
        """``(alpha - 1) / (alpha + beta - 2)``, or the end where the density is highest; NaN for both ends or none."""
        alpha, beta = self.alpha.expand(self.batch_shape), self.beta.expand(self.batch_shape)
        inside = (alpha - 1.0) / (alpha + beta - 2.0)
        ends = torch.where(alpha > 1.0, 1.0, torch.where(beta > 1.0, 0.0, torch.nan))
        return torch.where((alpha > 1.0) & (beta > 1.0), inside, ends.double())

    @property
    def marginal_mode(self) -> Float[Tensor, "*batch"]:
        """There is one parameter, so it is the joint mode."""
        return self.mode

    @property
    def proper(self) -> bool:
        """Whether alpha and beta are above 0."""
        return above_zero(self.alpha, self.beta)

    @property
    def log_normaliser(self) -> Float[Tensor, "*batch"]:
        """The beta function."""
        return log_beta(self.alpha, self.beta)

    def log_base_measure(self, statistics: BernoulliStatistics) -> Float[Tensor, "*batch"]:
        """1 for a sequence, the binomial coefficient for a count."""
        return statistics.log_choose

    @property
    def law(self) -> Beta:
        """The law of the probability of success."""
        self.require_proper("law")
        return Beta(self.alpha, self.beta)

    def predictive(self, x: Numbers | BernoulliStatistics | None = None) -> Bernoulli:
        """The law of the next trial, after ``x`` where it is given."""
        return Bernoulli((self if x is None else self.posterior(x)).law.mean)

    def predictive_count(
        self, trials: Numbers, x: Numbers | BernoulliStatistics | None = None
    ) -> BetaBinomial:
        """The law of the number of successes among ``trials`` more, after ``x`` where it is given."""
        law = (self if x is None else self.posterior(x)).law
        return BetaBinomial(counts("trials", trials), law.alpha, law.beta)
