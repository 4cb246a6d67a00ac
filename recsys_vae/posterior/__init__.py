"""Where a model meets a sampler: the posterior of each user's taste, its mode, its draws, and the scores they give."""

from recsys_vae.posterior.base import InferredPosterior, PosteriorMethod
from recsys_vae.posterior.density import LatentModel, PosteriorDensity
from recsys_vae.posterior.encoder import Encoder
from recsys_vae.posterior.importance_weighting import ImportanceWeighting
from recsys_vae.posterior.laplace import Laplace
from recsys_vae.posterior.likelihood_power import LikelihoodPower, PowerPerItem
from recsys_vae.posterior.markov_chains import MarkovChains
from recsys_vae.posterior.mean_field import MeanField, coordinate_ascent
from recsys_vae.posterior.mode import MaximumLikelihood, Mode
from recsys_vae.posterior.predictive import Predictive, predict

__all__ = [
    "Encoder",
    "ImportanceWeighting",
    "InferredPosterior",
    "Laplace",
    "LatentModel",
    "LikelihoodPower",
    "MarkovChains",
    "MaximumLikelihood",
    "MeanField",
    "Mode",
    "PosteriorDensity",
    "PosteriorMethod",
    "PowerPerItem",
    "Predictive",
    "coordinate_ascent",
    "predict",
]
