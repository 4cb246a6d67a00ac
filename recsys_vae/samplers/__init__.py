"""Drawing from any log-density: direct, weighted and Markov-chain samplers. PyTorch only; knows no recommender.

The lower-case names build kernels: ``sample(hmc(n_leapfrog=5), log_density_fn, initial)``.
"""

from recsys_vae.samplers.chains import ChainDiagnostics, SampleResult, sample
from recsys_vae.samplers.distribution import DiagonalGaussian, Distribution, FullGaussian
from recsys_vae.samplers.hmc import HMC, ChEES
from recsys_vae.samplers.kernel import ChainState, GradientState, Kernel, LogDensity, StepInfo, Tuning
from recsys_vae.samplers.mala import MALA
from recsys_vae.samplers.random_walk_metropolis import RandomWalkMetropolis

random_walk_metropolis = RandomWalkMetropolis
mala = MALA
hmc = HMC
chees = ChEES

__all__ = [
    "HMC",
    "MALA",
    "ChEES",
    "ChainDiagnostics",
    "ChainState",
    "DiagonalGaussian",
    "Distribution",
    "FullGaussian",
    "GradientState",
    "Kernel",
    "LogDensity",
    "RandomWalkMetropolis",
    "SampleResult",
    "StepInfo",
    "Tuning",
    "chees",
    "hmc",
    "mala",
    "random_walk_metropolis",
    "sample",
]
