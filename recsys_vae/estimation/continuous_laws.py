"""Laws of real numbers that conjugate models are made of, with quantiles by SciPy's special functions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from scipy import special
from torch import Tensor

from recsys_vae.estimation.arguments import Numbers, common_shape, finite
from recsys_vae.estimation.laws import (
    ContinuousLaw,
    Law,
    SampleShape,
    from_scipy,
    full_shape,
    standard_gamma,
)


@dataclass(frozen=True)
class StudentT(ContinuousLaw):
    """Student's t with ``degrees`` of freedom about ``location``; ``scale`` is no standard deviation."""

    degrees: Float[Tensor, ...]
    location: Float[Tensor, ...]
    scale: Float[Tensor, ...]

    @property
    def batch_shape(self) -> torch.Size:
        """Of the parameters, broadcast."""
        return common_shape(self.degrees.shape, self.location.shape, self.scale.shape)

    @property
    def mean(self) -> Float[Tensor, ...]:
        """The location; NaN with one degree or less."""
        mean = torch.where(self.degrees > 1.0, self.location, torch.nan)
        return mean.expand(self.batch_shape)

    @property
    def variance(self) -> Float[Tensor, ...]:
        """Infinite with two degrees or less, NaN with one or less."""
        finite_variance = self.scale**2 * self.degrees / (self.degrees - 2.0)
        variance = torch.where(self.degrees > 2.0, finite_variance, torch.inf)
        return torch.where(self.degrees > 1.0, variance, torch.nan).expand(self.batch_shape)

    def log_prob(self, value: Numbers) -> Float[Tensor, ...]:
        """Log-density at real numbers."""
        standardised = (finite("value", value) - self.location) / self.scale
        half = self.degrees / 2.0
        log_norm = torch.lgamma(half + 0.5) - torch.lgamma(half) - 0.5 * torch.log(self.degrees * math.pi)
        return log_norm - self.scale.log() - (half + 0.5) * torch.log1p(standardised**2 / self.degrees)

    def sample(
        self, sample_shape: SampleShape = (), generator: torch.Generator | None = None
    ) -> Float[Tensor, ...]:
        """A Gaussian over the root of a chi-squared."""
        size = full_shape(sample_shape, self.batch_shape)
        normal = torch.randn(size, dtype=torch.float64, generator=generator)
        half = self.degrees / 2.0
        return self.location + self.scale * normal / (standard_gamma(half, size, generator) / half).sqrt()

    def cdf(self, value: Numbers) -> Float[Tensor, ...]:
        """By the incomplete beta function."""
        standardised = (finite("value", value) - self.location) / self.scale
        return from_scipy(special.stdtr(self.degrees.numpy(), standardised.numpy()))

    def quantile(self, probability: Numbers) -> Float[Tensor, ...]:
        """Inverse of :meth:`cdf`."""
        standard = special.stdtrit(self.degrees.numpy(), finite("probability", probability).numpy())
        return self.location + self.scale * from_scipy(standard)


@dataclass(frozen=True)
class Gamma(ContinuousLaw):
    """Density proportional to ``x^(shape - 1) exp(-rate x)``."""

    shape: Float[Tensor, ...]
    rate: Float[Tensor, ...]

    @property
    def batch_shape(self) -> torch.Size:
        """Of the parameters, broadcast."""
        return common_shape(self.shape.shape, self.rate.shape)

    @property
    def mean(self) -> Float[Tensor, ...]:
        """``shape / rate``."""
        return self.shape / self.rate

    @property
    def variance(self) -> Float[Tensor, ...]:
        """``shape / rate^2``."""
        return self.shape / self.rate**2

    def log_prob(self, value: Numbers) -> Float[Tensor, ...]:
        """Log-density."""
        x = finite("value", value)
        log_norm = self.shape * self.rate.log() - torch.lgamma(self.shape)
        density = log_norm + torch.xlogy(self.shape - 1.0, x) - self.rate * x
        return torch.where(x >= 0, density, -torch.inf)

    def sample(
        self, sample_shape: SampleShape = (), generator: torch.Generator | None = None
    ) -> Float[Tensor, ...]:
        """By Marsaglia and Tsang's method, torch's own."""
        return standard_gamma(self.shape, full_shape(sample_shape, self.batch_shape), generator) / self.rate

    def cdf(self, value: Numbers) -> Float[Tensor, ...]:
        """By the incomplete gamma function."""
        x = finite("value", value).clamp_min(0.0) * self.rate
        return from_scipy(special.gammainc(self.shape.numpy(), x.numpy()))

    def quantile(self, probability: Numbers) -> Float[Tensor, ...]:
        """Inverse of :meth:`cdf`."""
        standard = special.gammaincinv(self.shape.numpy(), finite("probability", probability).numpy())
        return from_scipy(standard) / self.rate


@dataclass(frozen=True)
class InverseGamma(ContinuousLaw):
    """Density proportional to ``x^(-alpha - 1) exp(-beta / x)``: of the inverse of a gamma variable."""

    alpha: Float[Tensor, ...]
    beta: Float[Tensor, ...]

    @property
    def batch_shape(self) -> torch.Size:
        """Of the parameters, broadcast."""
        return common_shape(self.alpha.shape, self.beta.shape)

    @property
    def mean(self) -> Float[Tensor, ...]:
        """``beta / (alpha - 1)``, infinite where alpha is 1 or less."""
        return torch.where(self.alpha > 1.0, self.beta / (self.alpha - 1.0), torch.inf)

    @property
    def variance(self) -> Float[Tensor, ...]:
        """``mean^2 / (alpha - 2)``, infinite where alpha is 2 or less."""
        variance = self.beta**2 / ((self.alpha - 1.0) ** 2 * (self.alpha - 2.0))
        return torch.where(self.alpha > 2.0, variance, torch.inf)

    def log_prob(self, value: Numbers) -> Float[Tensor, ...]:
        """Log-density."""
        x = finite("value", value)
        inside = x.clamp_min(torch.finfo(torch.float64).tiny)
        log_norm = self.alpha * self.beta.log() - torch.lgamma(self.alpha)
        density = log_norm - (self.alpha + 1.0) * inside.log() - self.beta / inside
        return torch.where(x > 0, density, -torch.inf)

    def sample(
        self, sample_shape: SampleShape = (), generator: torch.Generator | None = None
    ) -> Float[Tensor, ...]:
        """The rate over gamma draws."""
        return self.beta / standard_gamma(self.alpha, full_shape(sample_shape, self.batch_shape), generator)

    def cdf(self, value: Numbers) -> Float[Tensor, ...]:
        """By the incomplete gamma function."""
        x = finite("value", value).clamp_min(torch.finfo(torch.float64).tiny)
        return from_scipy(special.gammaincc(self.alpha.numpy(), (self.beta / x).numpy()))

    def quantile(self, probability: Numbers) -> Float[Tensor, ...]:
        """Inverse of :meth:`cdf`."""
        standard = special.gammainccinv(self.alpha.numpy(), finite("probability", probability).numpy())
        return self.beta / from_scipy(standard)


@dataclass(frozen=True)
class Beta(ContinuousLaw):
    """Density proportional to ``x^(alpha - 1) (1 - x)^(beta - 1)`` on the unit interval."""

    alpha: Float[Tensor, ...]
    beta: Float[Tensor, ...]

    @property
    def batch_shape(self) -> torch.Size:
        """Of the parameters, broadcast."""
        return common_shape(self.alpha.shape, self.beta.shape)

    @property
    def mean(self) -> Float[Tensor, ...]:
        """``alpha / (alpha + beta)``."""
        return self.alpha / (self.alpha + self.beta)

    @property
    def variance(self) -> Float[Tensor, ...]:
        """``mean (1 - mean) / (alpha + beta + 1)``."""
        return self.mean * (1.0 - self.mean) / (self.alpha + self.beta + 1.0)

    def log_prob(self, value: Numbers) -> Float[Tensor, ...]:
        """Log-density."""
        x = finite("value", value)
        inside = x.clamp(0.0, 1.0)
        density = torch.xlogy(self.alpha - 1.0, inside) + torch.special.xlog1py(self.beta - 1.0, -inside)
        log_norm = torch.lgamma(self.alpha) + torch.lgamma(self.beta) - torch.lgamma(self.alpha + self.beta)
        return torch.where(inside == x, density - log_norm, -torch.inf)

    def sample(
        self, sample_shape: SampleShape = (), generator: torch.Generator | None = None
    ) -> Float[Tensor, ...]:
        """The share of one gamma variable in the sum of two."""
        size = full_shape(sample_shape, self.batch_shape)
        first = standard_gamma(self.alpha, size, generator)
        return first / (first + standard_gamma(self.beta, size, generator))

    def cdf(self, value: Numbers) -> Float[Tensor, ...]:
        """By the incomplete beta function."""
        x = finite("value", value).clamp(0.0, 1.0)
        return from_scipy(special.betainc(self.alpha.numpy(), self.beta.numpy(), x.numpy()))

    def quantile(self, probability: Numbers) -> Float[Tensor, ...]:
        """Inverse of :meth:`cdf`."""
        p = finite("probability", probability).numpy()
        return from_scipy(special.betaincinv(self.alpha.numpy(), self.beta.numpy(), p))


@dataclass(frozen=True)
class Dirichlet(Law):
    """Density proportional to ``prod_k x_k^(alpha_k - 1)`` on the simplex; categories run along the last axis."""

    alpha: Float[Tensor, "*batch categories"]

    @property
    def batch_shape(self) -> torch.Size:
        """Of the parameters, without the categories."""
        return self.alpha.shape[:-1]

    @property
    def mean(self) -> Float[Tensor, "*batch categories"]:
        """Shares of the total."""
        return self.alpha / self.alpha.sum(dim=-1, keepdim=True)

    @property
    def variance(self) -> Float[Tensor, "*batch categories"]:
        """Of each share by itself."""
        return self.mean * (1.0 - self.mean) / (self.alpha.sum(dim=-1, keepdim=True) + 1.0)

    def log_prob(self, value: Numbers) -> Float[Tensor, ...]:
        """Log-density with respect to the first ``categories - 1`` shares; ``value`` must sum to one."""
        x = finite("value", value)
        log_norm = torch.lgamma(self.alpha).sum(dim=-1) - torch.lgamma(self.alpha.sum(dim=-1))
        inside = (x >= 0).all(dim=-1) & ((x.sum(dim=-1) - 1.0).abs() < 1e-9)
        density = torch.xlogy(self.alpha - 1.0, x.clamp_min(0.0)).sum(dim=-1) - log_norm
        return torch.where(inside, density, -torch.inf)

    def sample(
        self, sample_shape: SampleShape = (), generator: torch.Generator | None = None
    ) -> Float[Tensor, ...]:
        """Gamma draws over their sum."""
        draws = standard_gamma(self.alpha, full_shape(sample_shape, self.alpha.shape), generator)
        return draws / draws.sum(dim=-1, keepdim=True)
