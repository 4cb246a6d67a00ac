"""Empirical Bayes: the prior under which the data of many problems are most probable (Efron & Hastie 2016, ch. 6)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from scipy import optimize
from torch import Tensor

from recsys_vae.errors import UserError
from recsys_vae.estimation.beta_bernoulli import BernoulliStatistics, BetaBernoulli
from recsys_vae.estimation.conjugate import ConjugateModel
from recsys_vae.estimation.gamma_poisson import GammaPoisson, PoissonStatistics
from recsys_vae.estimation.normal_inverse_gamma import GaussianStatistics, NormalInverseGamma

Prior = TypeVar("Prior", bound=ConjugateModel[Any])

# A hyper-parameter may go this far from its start, in powers of e. Where the problems differ no more than chance would
# have them, the evidence rises for ever towards a prior that is a point.
_REACH = 10.0


@dataclass(frozen=True)
class EmpiricalPrior(Generic[Prior]):
    """The fitted prior.

    Args:
        prior: its maximum.
        log_evidence: of all problems together, nats.
        at_bound: the evidence still rises towards a prior that is a point, or no prior at all: the problems show no
            spread of their own, or nothing else.
    """

    prior: Prior
    log_evidence: float
    at_bound: bool


def fit_normal_inverse_gamma(statistics: GaussianStatistics) -> EmpiricalPrior[NormalInverseGamma]:
    """The Normal-inverse-gamma prior of most evidence, from one set of Gaussian statistics a problem, ``(problems,)``.

    Problems without data are passed over. Raises :class:`UserError` where fewer than two problems have data, no
    problem has two observations, or all observations within problems are equal.
    """
    known = statistics.count > 0
    count, mean, scatter = (v[known] for v in (statistics.count, statistics.mean, statistics.scatter))
    freedom = (count - 1.0).sum()
    if count.numel() < 2 or not bool(freedom > 0) or not bool(scatter.sum() > 0):
        raise UserError(
            "statistics: expected at least two problems with data, and spread within some of them, came none"
        )
    within = scatter.sum() / freedom
    centre = (count * mean).sum() / count.sum()
    between = (mean.var() - (within / count).mean()).clamp_min(0.02 * within)
    # By moments: some six observations' worth of knowledge about each variance.
    start = [np.log(3.0), float(torch.log(2.0 * within)), float(torch.log(within / between)), 0.0]
    scale = within.sqrt()

    def build(free: Tensor) -> NormalInverseGamma:
        alpha, beta, gamma = free[:3].exp()
        return NormalInverseGamma(alpha=alpha, beta=beta, gamma=gamma, delta=centre + scale * free[3])

    return _maximise(build, start, GaussianStatistics(count, mean, scatter))


def fit_beta_bernoulli(statistics: BernoulliStatistics) -> EmpiricalPrior[BetaBernoulli]:
    """The beta prior of most evidence, from one set of Bernoulli statistics a problem, ``(problems,)``.

    Raises :class:`UserError` where fewer than two problems have data, or all trials end alike.
    """
    known = statistics.trials > 0
    trials, successes, log_choose = (
        v[known] for v in (statistics.trials, statistics.successes, statistics.log_choose)
    )
    share = successes.sum() / trials.sum()
    if trials.numel() < 2 or not 0.0 < float(share) < 1.0:
        raise UserError(
            "statistics: expected at least two problems with data, with both successes and failures, came none"
        )
    # The variance of a share is p (1 - p) (1 / trials + 1 / (total + 1)), about.
    excess = ((successes / trials).var() / (share * (1.0 - share)) - (1.0 / trials).mean()).clamp(1e-2, 0.9)
    start = [float(torch.logit(share)), float(torch.log(1.0 / excess - 1.0))]

    def build(free: Tensor) -> BetaBernoulli:
        # Mean and total: the evidence's axes, nearly.
        total = free[1].exp()
        return BetaBernoulli(alpha=total * torch.sigmoid(free[0]), beta=total * torch.sigmoid(-free[0]))

    return _maximise(build, start, BernoulliStatistics(trials, successes, log_choose))


def fit_gamma_poisson(statistics: PoissonStatistics) -> EmpiricalPrior[GammaPoisson]:
    """The gamma prior of most evidence, from one set of Poisson statistics a problem, ``(problems,)``.

    Raises :class:`UserError` where fewer than two problems have data, or all counts are 0.
    """
    known = statistics.exposure > 0
    exposure, total, log_factor = (
        v[known] for v in (statistics.exposure, statistics.total, statistics.log_factor)
    )
    rate = total.sum() / exposure.sum()
    if exposure.numel() < 2 or not bool(rate > 0):
        raise UserError(
            "statistics: expected at least two problems with data, and a count above 0, came none"
        )
    excess = ((total / exposure).var() - (rate / exposure).mean()).clamp_min(1e-2 * rate**2)
    start = [float(rate.log()), float(torch.log(rate / excess))]

    def build(free: Tensor) -> GammaPoisson:
        return GammaPoisson(shape=(free[0] + free[1]).exp(), rate=free[1].exp())

    return _maximise(build, start, PoissonStatistics(exposure, total, log_factor))


def _maximise(build: Callable[[Tensor], Prior], start: list[float], statistics: Any) -> EmpiricalPrior[Prior]:
    """L-BFGS-B on the mean log-evidence, with gradients by automatic differentiation."""

    def negative(free: Float[np.ndarray, " free"]) -> tuple[float, Float[np.ndarray, " free"]]:
        point = torch.tensor(free, dtype=torch.float64, requires_grad=True)
        value = -build(point).log_evidence(statistics).mean()
        (gradient,) = torch.autograd.grad(value, point)
        return value.item(), gradient.numpy()

    centre = np.asarray(start)
    bounds = list(zip(centre - _REACH, centre + _REACH, strict=True))
    found = optimize.minimize(
        negative, centre, jac=True, method="L-BFGS-B", bounds=bounds,
        options={"maxiter": 1000, "ftol": 1e-15, "gtol": 1e-9},
    )  # fmt: skip
    prior = build(torch.from_numpy(found.x))
    # Towards a bound the evidence is flat, and the search may end on its way there.
    at_bound = False
    for place, ends in enumerate(bounds):
        for end in ends:
            point = found.x.copy()
            point[place] = end
            at_bound |= negative(point)[0] <= found.fun + 1e-7 * (1.0 + abs(found.fun))
    return EmpiricalPrior(prior, float(prior.log_evidence(statistics).sum()), at_bound)
