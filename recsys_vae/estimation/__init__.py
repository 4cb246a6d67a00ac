"""Maximum likelihood, MAP and full Bayes for conjugate models, and Tweedie's formula. Knows no recommender.

Batched over many problems at once; conjugate models work in float64, logarithms are natural.
"""

from recsys_vae.estimation.beta_bernoulli import BernoulliStatistics, BetaBernoulli
from recsys_vae.estimation.conjugate import ConjugateModel
from recsys_vae.estimation.continuous_laws import Beta, Dirichlet, Gamma, InverseGamma, StudentT
from recsys_vae.estimation.dirichlet_categorical import CategoricalStatistics, DirichletCategorical
from recsys_vae.estimation.discrete_laws import (
    Bernoulli,
    BetaBinomial,
    Categorical,
    DirichletMultinomial,
    NegativeBinomial,
)
from recsys_vae.estimation.gamma_poisson import GammaPoisson, PoissonStatistics
from recsys_vae.estimation.laws import ContinuousLaw, Law
from recsys_vae.estimation.linear_regression import LinearRegression, RegressionData
from recsys_vae.estimation.normal_inverse_gamma import GaussianStatistics, NormalInverseGamma
from recsys_vae.estimation.tweedie import tweedie_covariance, tweedie_mean, tweedie_variance

__all__ = [
    "Bernoulli",
    "BernoulliStatistics",
    "Beta",
    "BetaBernoulli",
    "BetaBinomial",
    "Categorical",
    "CategoricalStatistics",
    "ConjugateModel",
    "ContinuousLaw",
    "Dirichlet",
    "DirichletCategorical",
    "DirichletMultinomial",
    "Gamma",
    "GammaPoisson",
    "GaussianStatistics",
    "InverseGamma",
    "Law",
    "LinearRegression",
    "NegativeBinomial",
    "NormalInverseGamma",
    "PoissonStatistics",
    "RegressionData",
    "StudentT",
    "tweedie_covariance",
    "tweedie_mean",
    "tweedie_variance",
]
