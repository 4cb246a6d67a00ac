"""Mult-DAE: the denoising autoencoder of Liang et al. 2018 (arXiv:1802.05814), a Mult-VAE without a posterior."""

from __future__ import annotations

import torch

from recsys_vae.models.gaussian_posterior import GaussianPosterior
from recsys_vae.models.mult_vae import MultVAE
from recsys_vae.models.sparse_rows import SparseRows


class MultDAE(MultVAE):
    """The same network with a point estimate of the taste: ``q(z|x)`` is a point mass at ``mu(x)``.

    Takes the arguments of :class:`MultVAE`. It has no variance and no KL term; the paper regularises its weights
    instead (``optimiser.weight_decay``).
    """

    @staticmethod
    def _encoder_outputs(latent_dim: int) -> int:
        return latent_dim

    def encode(self, histories: SparseRows, *, generator: torch.Generator | None = None) -> GaussianPosterior:
        """A point mass at the estimate: the log-variance is minus infinity, the standard deviation 0."""
        mean = self._encoder_activations(histories, generator).float()
        return GaussianPosterior(mean, torch.full_like(mean, -torch.inf))
