"""Recommenders: histories in, item scores out. One file per recommender, named as its paper names it."""

from recsys_vae.models.base import ClosedFormModel, GradientModel, IterativeModel, RecommenderModel
from recsys_vae.models.bpmf import BPMF
from recsys_vae.models.chow_liu import ChowLiu
from recsys_vae.models.diff_rec import DiffRec
from recsys_vae.models.gaussian_posterior import GaussianPosterior
from recsys_vae.models.gmrf import GMRF
from recsys_vae.models.hpf import HPF
from recsys_vae.models.hybrid import Hybrid
from recsys_vae.models.ising import Ising
from recsys_vae.models.item_knn import ItemKNN
from recsys_vae.models.linear_autoencoder import DLAE, EASE, EDLAE, RDLAE, RLAE, LinearAutoencoder
from recsys_vae.models.mult_dae import MultDAE
from recsys_vae.models.mult_vae import MultVAE
from recsys_vae.models.multinomial_vae import MultinomialVAE
from recsys_vae.models.popularity import Popularity
from recsys_vae.models.ppca import PPCA
from recsys_vae.models.rec_vae import RecVAE
from recsys_vae.models.rp3beta import RP3Beta
from recsys_vae.models.slim import SLIM
from recsys_vae.models.sparse_rows import SparseRows
from recsys_vae.models.wmf import WMF

__all__ = [
    "BPMF",
    "DLAE",
    "EASE",
    "EDLAE",
    "GMRF",
    "HPF",
    "PPCA",
    "RDLAE",
    "RLAE",
    "SLIM",
    "WMF",
    "ChowLiu",
    "ClosedFormModel",
    "DiffRec",
    "GaussianPosterior",
    "GradientModel",
    "Hybrid",
    "Ising",
    "ItemKNN",
    "IterativeModel",
    "LinearAutoencoder",
    "MultDAE",
    "MultVAE",
    "MultinomialVAE",
    "Popularity",
    "RP3Beta",
    "RecVAE",
    "RecommenderModel",
    "SparseRows",
]
