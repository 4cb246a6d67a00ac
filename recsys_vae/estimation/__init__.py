"""Maximum likelihood, MAP and full Bayes for conjugate models, and Tweedie's formula. Knows no recommender.

Batched over many problems at once; conjugate models work in float64, logarithms are natural.
"""

from recsys_vae.estimation.atom_prior import AtomPrior, fit_atom_prior, tweedie_group_means
from recsys_vae.estimation.beta_bernoulli import BernoulliStatistics, BetaBernoulli
from recsys_vae.estimation.conjugate import ConjugateModel
from recsys_vae.estimation.continuous_laws import Beta, Dirichlet, Gamma, InverseGamma, StudentT
from recsys_vae.estimation.denoising_score import DenoisingScore, fit_denoising_score
from recsys_vae.estimation.dirichlet_categorical import CategoricalStatistics, DirichletCategorical
from recsys_vae.estimation.discrete_laws import (
    Bernoulli,
    BetaBinomial,
    Categorical,
    DirichletMultinomial,
    NegativeBinomial,
)
from recsys_vae.estimation.empirical_bayes import (
    EmpiricalPrior,
    fit_beta_bernoulli,
    fit_gamma_poisson,
    fit_normal_inverse_gamma,
)
from recsys_vae.estimation.gamma_poisson import GammaPoisson, PoissonStatistics
from recsys_vae.estimation.gaussian_mixture import GaussianMixture
from recsys_vae.estimation.kernel_density import KernelDensity
from recsys_vae.estimation.laws import ContinuousLaw, Law
from recsys_vae.estimation.lindsey import LogPolynomialDensity, lindsey
from recsys_vae.estimation.linear_regression import LinearRegression, RegressionData
from recsys_vae.estimation.normal_inverse_gamma import GaussianStatistics, NormalInverseGamma
from recsys_vae.estimation.robbins import robbins, robbins_mean, smoothed_robbins
from recsys_vae.estimation.tweedie import tweedie_covariance, tweedie_mean, tweedie_variance

__all__ = [
    "AtomPrior",
    "Bernoulli",
    "BernoulliStatistics",
    "Beta",
    "BetaBernoulli",
    "BetaBinomial",
    "Categorical",
    "CategoricalStatistics",
    "ConjugateModel",
    "ContinuousLaw",
    "DenoisingScore",
    "Dirichlet",
    "DirichletCategorical",
    "DirichletMultinomial",
    "EmpiricalPrior",
    "Gamma",
    "GammaPoisson",
    "GaussianMixture",
    "GaussianStatistics",
    "InverseGamma",
    "KernelDensity",
    "Law",
    "LinearRegression",
    "LogPolynomialDensity",
    "NegativeBinomial",
    "NormalInverseGamma",
    "PoissonStatistics",
    "RegressionData",
    "StudentT",
    "fit_atom_prior",
    "fit_beta_bernoulli",
    "fit_denoising_score",
    "fit_gamma_poisson",
    "fit_normal_inverse_gamma",
    "lindsey",
    "robbins",
    "robbins_mean",
    "smoothed_robbins",
    "tweedie_covariance",
    "tweedie_group_means",
    "tweedie_mean",
    "tweedie_variance",
]
