"""Mult-VAE: a variational autoencoder with a multinomial likelihood (Liang et al. 2018, arXiv:1802.05814)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from scipy.sparse import csr_array
from torch import Tensor, nn

from recsys_vae.models.base import RecommenderModel, check_interval, check_positive
from recsys_vae.models.gaussian_posterior import GaussianPosterior
from recsys_vae.models.initialisation import initialise_bias, initialise_weight
from recsys_vae.models.multinomial import MultinomialOutput
from recsys_vae.models.multinomial_likelihood import MultinomialLikelihood
from recsys_vae.models.sampled_gradient import sampled_gradient_log_likelihood
from recsys_vae.models.sparse_rows import SparseRows, sparse_product


class SparseInput(nn.Module):
    """The first layer of an encoder: sparse histories times a weight ``(items, features)``, plus a bias."""

    def __init__(self, n_items: int, n_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_items, n_features))
        self.bias = nn.Parameter(torch.empty(n_features))

    def forward(self, histories: SparseRows) -> Float[Tensor, "users features"]:
        """Activations before the nonlinearity."""
        return sparse_product(histories, self.weight) + self.bias


class MultVAE(RecommenderModel):
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
        super().__init__(n_items)
        check_positive("model.latent_dim", latent_dim)
        for width in hidden_dims:
            check_positive("model.hidden_dims", width)
        check_interval("model.input_dropout", input_dropout, 0.0, 1.0)
        self.latent_dim = latent_dim
        self.input_dropout = input_dropout
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
        rows = histories.normalised()
        if self.training:
            rows = rows.dropout(self.input_dropout, generator)
        hidden: Tensor = self.encoder_input(rows)
        for layer in self.encoder_layers:
            hidden = layer(hidden.tanh())
        return hidden

    def encode(self, histories: SparseRows, *, generator: torch.Generator | None = None) -> GaussianPosterior:
        """Approximate posterior of each user's taste. In training mode, ``generator`` drives the input dropout."""
        # Under autocast the last layer answers in the lower precision; exp and squares want float32.
        mean, log_variance = self._encoder_activations(histories, generator).float().chunk(2, dim=-1)
        return GaussianPosterior(mean, log_variance)

    def decode_hidden(self, latent: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch features"]:
        """Activations of the decoder's last hidden layer: what the output weights are multiplied with."""
        hidden = latent
        for layer in self.decoder_layers:
            hidden = torch.tanh(layer(hidden))
        return hidden

    def decode(self, latent: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch items"]:
        """Logits of every item: ``f(z)``."""
        logits: Tensor = self.output(self.decode_hidden(latent))
        return logits

    def log_likelihood(
        self,
        latent: Float[Tensor, "users latent"],
        histories: SparseRows,
        *,
        gradient_share: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, " users"]:
        """``log p(x | z)`` in nats, per user, without the multinomial coefficient.

        The value is exact. Its gradient is too, unless ``gradient_share`` is below 1: then it is an unbiased
        estimate from that share of the items, drawn by ``generator`` (see :mod:`~recsys_vae.models.sampled_gradient`).
        """
        hidden = self.decode_hidden(latent)
        if gradient_share == 1.0:
            return self.output.log_likelihood(hidden, histories)
        return sampled_gradient_log_likelihood(
            hidden, self.output.weight, self.output.bias, histories, gradient_share, generator
        )

    def likelihood(self, histories: SparseRows) -> MultinomialLikelihood:
        """:meth:`log_likelihood` of these histories as a function of z with a quick gradient, for inference."""
        return MultinomialLikelihood(
            [layer for layer in self.decoder_layers if isinstance(layer, nn.Linear)],
            self.output.weight,
            self.output.bias,
            histories,
        )

    def forward(self, histories: SparseRows) -> Float[Tensor, "users items"]:
        """Logits at the posterior mean."""
        return self.decode(self.encode(histories).mean)

    @torch.no_grad()
    def posterior(self, histories: csr_array) -> GaussianPosterior:
        """The encoder's posterior of each user's taste, without dropout."""
        self.check_histories(histories)
        self.eval()
        return self.encode(SparseRows.from_csr(histories, self.device))

    @torch.no_grad()
    def score(self, histories: csr_array) -> Float[Tensor, "users items"]:
        """Logits at the posterior mean, as the paper ranks."""
        return self.decode(self.posterior(histories).mean)

    @torch.no_grad()
    def user_vectors(self, histories: csr_array) -> Float[Tensor, "users features_plus_one"]:
        """Vectors whose inner products with :meth:`item_vectors` are the scores: hidden layer, then a 1."""
        hidden = self.decode_hidden(self.posterior(histories).mean)
        return torch.cat([hidden, hidden.new_ones(hidden.shape[0], 1)], dim=-1)

    @torch.no_grad()
    def item_vectors(self) -> Float[Tensor, "items features_plus_one"]:
        """Output weights, then the bias."""
        return torch.cat([self.output.weight, self.output.bias.unsqueeze(-1)], dim=-1)
