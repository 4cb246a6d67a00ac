"""Laws of counts and labels: what conjugate models predict."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recsys_vae.estimation.arguments import Numbers, common_shape, finite
from recsys_vae.estimation.continuous_laws import Beta, Dirichlet
from recsys_vae.estimation.laws import Law, SampleShape, full_shape, standard_gamma


@dataclass(frozen=True)
class Bernoulli(Law):
    """One with ``probability``, else zero."""

    probability: Float[Tensor, ...]

    @property
    def batch_shape(self) -> torch.Size:
        """Of the probabilities."""
        return self.probability.shape

    @property
    def mean(self) -> Float[Tensor, ...]:
        """The probability."""
        return self.probability

    @property
    def variance(self) -> Float[Tensor, ...]:
        """``p (1 - p)``."""
        return self.probability * (1.0 - self.probability)

    def log_prob(self, value: Numbers) -> Float[Tensor, ...]:
        """Log-probability; -inf but for 0 and 1."""
        x = finite("value", value)
        chosen = torch.where(x == 1, self.probability, 1.0 - self.probability)
        return torch.where((x == 0) | (x == 1), chosen.log(), -torch.inf)

    def sample(
        self, sample_shape: SampleShape = (), generator: torch.Generator | None = None
    ) -> Float[Tensor, ...]:
        """Zeros and ones."""
        size = full_shape(sample_shape, self.batch_shape)
        return (torch.rand(size, dtype=torch.float64, generator=generator) < self.probability).double()


@dataclass(frozen=True)
class BetaBinomial(Law):
    """How many of ``trials`` succeed, where the probability of success is one draw of ``Beta(alpha, beta)``."""

    trials: Float[Tensor, ...]
    alpha: Float[Tensor, ...]
    beta: Float[Tensor, ...]

    @property
    def batch_shape(self) -> torch.Size:
        """Of the parameters, broadcast."""
        return common_shape(self.trials.shape, self.alpha.shape, self.beta.shape)

    @property
    def mean(self) -> Float[Tensor, ...]:
        """``trials`` times the mean probability."""
        return self.trials * Beta(self.alpha, self.beta).mean

    @property
    def variance(self) -> Float[Tensor, ...]:
        """A binomial's, ``(alpha + beta + trials) / (alpha + beta + 1)`` times."""
        share = Beta(self.alpha, self.beta).mean
        total = self.alpha + self.beta
        return self.trials * share * (1.0 - share) * (total + self.trials) / (total + 1.0)

    def log_prob(self, value: Numbers) -> Float[Tensor, ...]:
        """Log-probability; -inf but for whole numbers from 0 to ``trials``."""
        x = finite("value", value)
        inside = (x >= 0) & (x <= self.trials) & (x == x.round())
        k = torch.where(inside, x, 0.0)
        log_choose = (
            torch.lgamma(self.trials + 1.0) - torch.lgamma(k + 1.0) - torch.lgamma(self.trials - k + 1.0)
        )
        after = log_beta(self.alpha + k, self.beta + self.trials - k)
        return torch.where(inside, log_choose + after - log_beta(self.alpha, self.beta), -torch.inf)

    def sample(
        self, sample_shape: SampleShape = (), generator: torch.Generator | None = None
    ) -> Float[Tensor, ...]:
        """A probability, then a binomial."""
        size = full_shape(sample_shape, self.batch_shape)
        batched = Beta(self.alpha.expand(self.batch_shape), self.beta)
        probability = batched.sample(sample_shape, generator)
        return torch.binomial(self.trials.expand(size).contiguous(), probability, generator=generator)


@dataclass(frozen=True)
class NegativeBinomial(Law):
    """A Poisson count over ``exposure`` whose rate is one draw of ``Gamma(shape, rate)``."""

    shape: Float[Tensor, ...]
    rate: Float[Tensor, ...]
    exposure: Float[Tensor, ...]

    @property
    def batch_shape(self) -> torch.Size:
        """Of the parameters, broadcast."""
        return common_shape(self.shape.shape, self.rate.shape, self.exposure.shape)

    @property
    def mean(self) -> Float[Tensor, ...]:
        """``exposure * shape / rate``."""
        return self.exposure * self.shape / self.rate

    @property
    def variance(self) -> Float[Tensor, ...]:
        """More than a Poisson's, by the rate's own variance."""
        return self.mean * (1.0 + self.exposure / self.rate)

    def log_prob(self, value: Numbers) -> Float[Tensor, ...]:
        """Log-probability; -inf but for whole numbers of 0 or more."""
        x = finite("value", value)
        inside = (x >= 0) & (x == x.round())
        k = torch.where(inside, x, 0.0)
        log_choose = torch.lgamma(self.shape + k) - torch.lgamma(self.shape) - torch.lgamma(k + 1.0)
        # rate / (rate + exposure) and its complement, without cancellation
        log_failure = -torch.log1p(self.exposure / self.rate)
        log_success = -torch.log1p(self.rate / self.exposure)
        return torch.where(inside, log_choose + self.shape * log_failure + k * log_success, -torch.inf)

    def sample(
        self, sample_shape: SampleShape = (), generator: torch.Generator | None = None
    ) -> Float[Tensor, ...]:
        """A rate, then a Poisson count."""
        size = full_shape(sample_shape, self.batch_shape)
        return torch.poisson(
            self.exposure * standard_gamma(self.shape, size, generator) / self.rate, generator=generator
        )


@dataclass(frozen=True)
class Categorical(Law):
    """A label from 0; the probabilities run along the last axis."""

    probability: Float[Tensor, "*batch categories"]

    @property
    def batch_shape(self) -> torch.Size:
        """Of the probabilities, without the categories."""
        return self.probability.shape[:-1]

    @property
    def mean(self) -> Float[Tensor, "*batch categories"]:
        """Of the label's indicators: the probabilities."""
        return self.probability

    @property
    def variance(self) -> Float[Tensor, "*batch categories"]:
        """Of each indicator."""
        return self.probability * (1.0 - self.probability)

    def log_prob(self, value: Numbers) -> Float[Tensor, ...]:
        """Log-probability of labels; -inf for what is none."""
        x = finite("value", value)
        n_categories = self.probability.shape[-1]
        inside = (x >= 0) & (x < n_categories) & (x == x.round())
        shape = common_shape(x.shape, self.batch_shape)
        index = torch.where(inside, x, 0.0).long().expand(shape).unsqueeze(-1)
        chosen = self.probability.expand(*shape, n_categories).gather(-1, index).squeeze(-1)
        return torch.where(inside, chosen.log(), -torch.inf)

    def sample(
        self, sample_shape: SampleShape = (), generator: torch.Generator | None = None
    ) -> Int[Tensor, ...]:
        """Labels, int64."""
        size = full_shape(sample_shape, self.batch_shape)
        n_draws = 1
        for length in size[: len(size) - len(self.batch_shape)]:
            n_draws *= length
        rows = self.probability.reshape(-1, self.probability.shape[-1])
        labels = torch.multinomial(rows, n_draws, replacement=True, generator=generator)
        return labels.T.reshape(size)


@dataclass(frozen=True)
class DirichletMultinomial(Law):
    """Counts of the categories among ``trials`` labels, whose probabilities are one draw of a Dirichlet."""

    trials: int
    alpha: Float[Tensor, "*batch categories"]

    @property
    def batch_shape(self) -> torch.Size:
        """Of the parameters, without the categories."""
        return self.alpha.shape[:-1]

    @property
    def mean(self) -> Float[Tensor, "*batch categories"]:
        """``trials`` times the mean shares."""
        return self.trials * Dirichlet(self.alpha).mean

    @property
    def variance(self) -> Float[Tensor, "*batch categories"]:
        """Of each count by itself: a beta-binomial's."""
        share = Dirichlet(self.alpha).mean
        total = self.alpha.sum(dim=-1, keepdim=True)
        return self.trials * share * (1.0 - share) * (total + self.trials) / (total + 1.0)

    def log_prob(self, value: Numbers) -> Float[Tensor, ...]:
        """Log-probability of counts along the last axis; -inf unless they sum to ``trials``."""
        x = finite("value", value)
        inside = ((x >= 0) & (x == x.round())).all(dim=-1) & (x.sum(dim=-1) == self.trials)
        k = x.clamp_min(0.0)
        total = self.alpha.sum(dim=-1)
        log_choose = torch.lgamma(k.sum(dim=-1) + 1.0) - torch.lgamma(k + 1.0).sum(dim=-1)
        ratio = (torch.lgamma(self.alpha + k) - torch.lgamma(self.alpha)).sum(dim=-1)
        log_prob = log_choose + ratio + torch.lgamma(total) - torch.lgamma(total + k.sum(dim=-1))
        return torch.where(inside, log_prob, -torch.inf)

    def sample(
        self, sample_shape: SampleShape = (), generator: torch.Generator | None = None
    ) -> Float[Tensor, ...]:
        """Probabilities, then labels, counted."""
        probability = Dirichlet(self.alpha).sample(sample_shape, generator)
        rows = probability.reshape(-1, probability.shape[-1])
        labels = torch.multinomial(rows, max(self.trials, 1), replacement=True, generator=generator)
        labels = labels[:, : self.trials]
        tally = torch.zeros_like(rows).scatter_add_(1, labels, torch.ones_like(labels, dtype=rows.dtype))
        return tally.reshape(probability.shape)


def log_beta(a: Float[Tensor, ...], b: Float[Tensor, ...]) -> Float[Tensor, ...]:
    """Logarithm of Euler's beta function."""
    return torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)
