"""Training: the objective, its schedules, the Lightning module and the run around it."""

from recsys_vae.training.alternating import AlternatingELBO
from recsys_vae.training.diffusion import DiffusionELBO
from recsys_vae.training.kl_schedule import LinearKLSchedule
from recsys_vae.training.learning_rate import LearningRateSchedule
from recsys_vae.training.lit_vae import LitVAE
from recsys_vae.training.objective import (
    MonteCarloELBO,
    Objective,
    ObjectiveTerms,
    PointLogLikelihood,
    gaussian_kl,
    sample_gaussian,
)
from recsys_vae.training.trainer import Fit, VAETrainer, supports_fast_bfloat16

__all__ = [
    "AlternatingELBO",
    "DiffusionELBO",
    "Fit",
    "LearningRateSchedule",
    "LinearKLSchedule",
    "LitVAE",
    "MonteCarloELBO",
    "Objective",
    "ObjectiveTerms",
    "PointLogLikelihood",
    "VAETrainer",
    "gaussian_kl",
    "sample_gaussian",
    "supports_fast_bfloat16",
]
