"""Graphs of variables: directed, undirected and factor graphs, with exact and approximate inference.

Knows no recommender. Tables are float64 and everything is in logarithms, in nats.
"""

from recsys_vae.graphical.bayesian_network import BayesianNetwork
from recsys_vae.graphical.chain import forward_backward, most_probable_path
from recsys_vae.graphical.chow_liu import chow_liu_tree
from recsys_vae.graphical.conditionals import Logistic, NoisyOr, Table
from recsys_vae.graphical.d_separation import Separation, d_separated
from recsys_vae.graphical.drawing import Plate, draw
from recsys_vae.graphical.elimination_order import eliminate
from recsys_vae.graphical.enumeration import enumerate_marginals, enumerate_mode
from recsys_vae.graphical.factor_graph import DiscreteGraph, FactorGraph, LogPotential
from recsys_vae.graphical.gaussian_belief_propagation import GaussianBeliefs, gaussian_belief_propagation
from recsys_vae.graphical.hill_climbing import hill_climb
from recsys_vae.graphical.iterated_conditional_modes import LocalMode, iterated_conditional_modes
from recsys_vae.graphical.junction_tree import JunctionTree, junction_tree
from recsys_vae.graphical.linear_gaussian import GaussianMarginals, LinearGaussian, LinearGaussianNetwork
from recsys_vae.graphical.loopy_belief_propagation import LoopyMarginals, loopy_belief_propagation
from recsys_vae.graphical.marginals import JointMode, Marginals
from recsys_vae.graphical.markov_random_field import MarkovRandomField
from recsys_vae.graphical.max_sum import max_sum
from recsys_vae.graphical.sampling import (
    WeightedDraws,
    ancestral_sample,
    blanket_conditionals,
    gibbs_sample,
    likelihood_weighting,
)
from recsys_vae.graphical.sum_product import SumProduct, sum_product
from recsys_vae.graphical.variable_elimination import variable_elimination

__all__ = [
    "BayesianNetwork",
    "DiscreteGraph",
    "FactorGraph",
    "GaussianBeliefs",
    "GaussianMarginals",
    "JointMode",
    "JunctionTree",
    "LinearGaussian",
    "LinearGaussianNetwork",
    "LocalMode",
    "LogPotential",
    "Logistic",
    "LoopyMarginals",
    "Marginals",
    "MarkovRandomField",
    "NoisyOr",
    "Plate",
    "Separation",
    "SumProduct",
    "Table",
    "WeightedDraws",
    "ancestral_sample",
    "blanket_conditionals",
    "chow_liu_tree",
    "d_separated",
    "draw",
    "eliminate",
    "enumerate_marginals",
    "enumerate_mode",
    "forward_backward",
    "gaussian_belief_propagation",
    "gibbs_sample",
    "hill_climb",
    "iterated_conditional_modes",
    "junction_tree",
    "likelihood_weighting",
    "loopy_belief_propagation",
    "max_sum",
    "most_probable_path",
    "sum_product",
    "variable_elimination",
]
