"""Drawing from any log-density: direct, weighted and Markov-chain samplers. PyTorch only; knows no recommender.

The lower-case names build kernels: ``sample(hmc(n_leapfrog=5), log_density_fn, initial)``.
"""

from recsys_vae.samplers.annealed_importance import (
    AnnealedDraws,
    Sandwich,
    annealed_importance,
    annealed_importance_reversed,
)
from recsys_vae.samplers.chains import ChainDiagnostics, SampleResult, sample
from recsys_vae.samplers.combination import Cycle, Mixture
from recsys_vae.samplers.distribution import DiagonalGaussian, Distribution, FullGaussian
from recsys_vae.samplers.elliptical_slice import EllipticalSlice
from recsys_vae.samplers.gibbs import Gibbs
from recsys_vae.samplers.hmc import HMC, ChEES
from recsys_vae.samplers.importance import WeightedDraws, importance
from recsys_vae.samplers.kernel import ChainState, GradientState, Kernel, LogDensity, StepInfo, Tuning
from recsys_vae.samplers.mala import MALA
from recsys_vae.samplers.metropolis_hastings import (
    AutoregressiveProposal,
    IndependenceProposal,
    MetropolisHastings,
    Proposal,
    RandomWalkProposal,
)
from recsys_vae.samplers.random_walk_metropolis import RandomWalkMetropolis

random_walk_metropolis = RandomWalkMetropolis
mala = MALA
hmc = HMC
chees = ChEES
metropolis_hastings = MetropolisHastings
elliptical_slice = EllipticalSlice
gibbs = Gibbs
cycle = Cycle
mixture = Mixture

__all__ = [
    "HMC",
    "MALA",
    "AnnealedDraws",
    "AutoregressiveProposal",
    "ChEES",
    "ChainDiagnostics",
    "ChainState",
    "Cycle",
    "DiagonalGaussian",
    "Distribution",
    "EllipticalSlice",
    "FullGaussian",
    "Gibbs",
    "GradientState",
    "IndependenceProposal",
    "Kernel",
    "LogDensity",
    "MetropolisHastings",
    "Mixture",
    "Proposal",
    "RandomWalkMetropolis",
    "RandomWalkProposal",
    "SampleResult",
    "Sandwich",
    "StepInfo",
    "Tuning",
    "WeightedDraws",
    "annealed_importance",
    "annealed_importance_reversed",
    "chees",
    "cycle",
    "elliptical_slice",
    "gibbs",
    "hmc",
    "importance",
    "mala",
    "metropolis_hastings",
    "mixture",
    "random_walk_metropolis",
    "sample",
]
