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
from recsys_vae.samplers.density_law import DensityLaw
from recsys_vae.samplers.distribution import DiagonalGaussian, Distribution, FullGaussian
from recsys_vae.samplers.elliptical_slice import EllipticalSlice
from recsys_vae.samplers.finite_chain import (
    FiniteChain,
    chain_of_acceptance,
    chain_of_counts,
    chain_of_outcomes,
    metropolis_hastings_chain,
)
from recsys_vae.samplers.gibbs import Gibbs
from recsys_vae.samplers.hmc import HMC, ChEES
from recsys_vae.samplers.importance import WeightedDraws, importance
from recsys_vae.samplers.inverse_cdf import DiscreteLaw, Law, inverse_cdf
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
from recsys_vae.samplers.rejection import RejectionResult, rejection
from recsys_vae.samplers.sampling_importance_resampling import sampling_importance_resampling

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
    "DensityLaw",
    "DiagonalGaussian",
    "DiscreteLaw",
    "Distribution",
    "EllipticalSlice",
    "FiniteChain",
    "FullGaussian",
    "Gibbs",
    "GradientState",
    "IndependenceProposal",
    "Kernel",
    "Law",
    "LogDensity",
    "MetropolisHastings",
    "Mixture",
    "Proposal",
    "RandomWalkMetropolis",
    "RandomWalkProposal",
    "RejectionResult",
    "SampleResult",
    "Sandwich",
    "StepInfo",
    "Tuning",
    "WeightedDraws",
    "annealed_importance",
    "annealed_importance_reversed",
    "chain_of_acceptance",
    "chain_of_counts",
    "chain_of_outcomes",
    "chees",
    "cycle",
    "elliptical_slice",
    "gibbs",
    "hmc",
    "importance",
    "inverse_cdf",
    "mala",
    "metropolis_hastings",
    "metropolis_hastings_chain",
    "mixture",
    "random_walk_metropolis",
    "rejection",
    "sample",
    "sampling_importance_resampling",
]
