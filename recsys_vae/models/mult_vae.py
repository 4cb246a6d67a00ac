"""Mult-VAE: a variational autoencoder with a multinomial likelihood (Liang et al. 2018, arXiv:1802.05814)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recsys_vae.models.base import check_positive
from recsys_vae.models.gaussian_posterior import GaussianPosterior
from recsys_vae.models.initialisation import initialise_bias, initialise_weight
from recsys_vae.models.multinomial import MultinomialOutput
from recsys_vae.models.multinomial_vae import MultinomialVAE, SparseInput
from recsys_vae.models.sparse_rows import SparseRows


class MultVAE(MultinomialVAE):
    """``z ~ N(0, I)``, ``x | z ~ Multinomial(N, softmax(f(z)))``, ``q(z|x) = N(mu(x), diag sigma(x)^2)``.

    Encoder and decoder are mirror-image MLPs with tanh between their layers; the encoder reads the history
    scaled to unit length, of which training hides a share ``input_dropout``.

    Args:
        n_items: size of the catalogue; comes from the data.
        latent_dim: size of z.
        hidden_dims: widths of the encoder's hidden layers from the input inwards; the decoder's are the reverse.
            Empty means a linear encoder and decoder.
        input_dropout: probability that an observed item is hidden from the encoder during training.
        seed: of the initial weights.
    """

    def __init__(
        self,
        n_items: int,
        latent_dim: int = 200,
        hidden_dims: Sequence[int] = (600,),
        input_dropout: float = 0.5,
        seed: int = 0,
    ) -> None:
        super().__init__(n_items, latent_dim, input_dropout)
        for width in hidden_dims:
            check_positive("model.hidden_dims", width)
        encoder_dims = [*hidden_dims, self._encoder_outputs(latent_dim)]
        decoder_dims = [latent_dim, *reversed(hidden_dims)]
        self.encoder_input = SparseInput(n_items, encoder_dims[0])
        self.encoder_layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(encoder_dims))
        self.decoder_layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(decoder_dims))
        self.output = MultinomialOutput(decoder_dims[-1], n_items)
        self.reset_parameters(seed)

    @staticmethod
    def _encoder_outputs(latent_dim: int) -> int:
        return 2 * latent_dim

    def reset_parameters(self, seed: int) -> None:
        """Draw all weights anew: Xavier uniform, biases close to zero, as the paper's code."""
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            initialise = initialise_weight if parameter.ndim == 2 else initialise_bias
            initialise(parameter, generator)

    def _encoder_activations(
        self, histories: SparseRows, generator: torch.Generator | None
    ) -> Float[Tensor, "users outputs"]:
        hidden: Tensor = self.encoder_input(self._visible(histories, generator))
        for layer in self.encoder_layers:
            hidden = layer(hidden.tanh())
        return hidden

    def encode(self, histories: SparseRows, *, generator: torch.Generator | None = None) -> GaussianPosterior:
        """Approximate posterior of each user's taste. In training mode, ``generator`` drives the input dropout."""
        # Under autocast the last layer answers in the lower precision; exp and squares want float32.
        mean, log_variance = self._encoder_activations(histories, generator).float().chunk(2, dim=-1)
        return GaussianPosterior(mean, log_variance)
