"""What the VAEs here share: a decoder of tanh layers, a softmax over the items, and scores at the posterior's mean."""

from __future__ import annotations

from abc import abstractmethod

import torch
from jaxtyping import Float
from scipy.sparse import csr_array
from torch import Tensor, nn

from recsys_vae.models.base import GradientModel, check_interval, check_positive
from recsys_vae.models.gaussian_posterior import GaussianPosterior
from recsys_vae.models.multinomial import MultinomialOutput
from recsys_vae.models.multinomial_likelihood import MultinomialLikelihood
from recsys_vae.models.sampled_softmax import sampled_log_likelihood
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


class MultinomialVAE(GradientModel):
    """``z ~ N(0, I)``, ``x | z ~ Multinomial(N, softmax(f(z)))``, ``q(z|x) = N(mu(x), diag sigma(x)^2)``.

    A subclass brings the encoder, and makes the decoder's ``decoder_layers`` (tanh follows each; none for a linear
    decoder) and its ``output`` layer.

    Args:
        n_items: size of the catalogue; comes from the data.
        latent_dim: size of z.
        input_dropout: probability that an observed item is hidden from the encoder during training.
    """

    decoder_layers: nn.ModuleList
    output: MultinomialOutput

    def __init__(self, n_items: int, latent_dim: int, input_dropout: float) -> None:
        super().__init__(n_items)
        check_positive("model.latent_dim", latent_dim)
        check_interval("model.input_dropout", input_dropout, 0.0, 1.0)
        self.latent_dim = latent_dim
        self.input_dropout = input_dropout

    @abstractmethod
    def encode(self, histories: SparseRows, *, generator: torch.Generator | None = None) -> GaussianPosterior:
        """Approximate posterior of each user's taste. In training mode, ``generator`` drives the input dropout."""

    def _visible(self, histories: SparseRows, generator: torch.Generator | None) -> SparseRows:
        """Histories of unit length, of which training hides a share."""
        rows = histories.normalised()
        return rows.dropout(self.input_dropout, generator) if self.training else rows

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
        item_share: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, " users"]:
        """``log p(x | z)`` in nats, per user, without the multinomial coefficient.

        Exact, unless ``item_share`` is below 1: then it is estimated from that share of the items, drawn by
        ``generator`` (see :mod:`~recsys_vae.models.sampled_softmax`).
        """
        hidden = self.decode_hidden(latent)
        if item_share == 1.0:
            return self.output.log_likelihood(hidden, histories)
        return sampled_log_likelihood(
            hidden, self.output.weight, self.output.bias, histories, item_share, generator
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
