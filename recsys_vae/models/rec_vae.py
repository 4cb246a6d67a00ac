"""RecVAE: a Mult-VAE with a deeper encoder and a prior that remembers (Shenbin et al. 2020, arXiv:1912.11160)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import silu

from recsys_vae.errors import UserError
from recsys_vae.models.base import check_positive
from recsys_vae.models.composite_prior import CompositePrior
from recsys_vae.models.gaussian_posterior import GaussianPosterior
from recsys_vae.models.initialisation import initialise_uniform
from recsys_vae.models.multinomial import MultinomialOutput
from recsys_vae.models.multinomial_vae import MultinomialVAE, SparseInput
from recsys_vae.models.sparse_rows import SparseRows


class DenseEncoder(nn.Module):
    """Hidden layers each of which adds up all that came before it.

    ``h_1 = norm(swish(W_1 x + b_1))``, ``h_k = norm(swish(W_k h_{k-1} + b_k + h_1 + ... + h_{k-1}))``, where norm is
    layer normalisation and ``swish(a) = a sigmoid(a)``; two linear maps of the last are the mean and the log-variance.
    """

    def __init__(self, n_items: int, latent_dim: int, hidden_dims: Sequence[int]) -> None:
        super().__init__()
        self.input = SparseInput(n_items, hidden_dims[0])
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(hidden_dims))
        # eps is the paper's code's: it bounds the gradient where the activations of a user are nearly equal.
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=0.1) for width in hidden_dims)
        self.head = nn.Linear(hidden_dims[-1], 2 * latent_dim)

    def forward(self, visible: SparseRows) -> GaussianPosterior:
        """The posterior, from histories of unit length of which some may be hidden."""
        hidden: Tensor = self.norms[0](silu(self.input(visible)))
        total = hidden
        for layer, norm in zip(self.layers, self.norms[1:], strict=True):
            hidden = norm(silu(layer(hidden) + total))
            total = total + hidden
        # Under autocast the last layer answers in the lower precision; exp and squares want float32.
        mean, log_variance = self.head(hidden).float().chunk(2, dim=-1)
        return GaussianPosterior(mean, log_variance)


class RecVAE(MultinomialVAE):
    """A linear softmax decoder, a densely connected encoder, and the composite prior that it is trained with.

    Training alternates between the two (:class:`~recsys_vae.training.AlternatingELBO`) with the KL term weighted by
    the length of the history (``trainer.kl_schedule.per_item``). The composite prior serves training alone: as a
    generative model, and so for ``posterior=...``, it has the prior ``z ~ N(0, I)``.

    Args:
        n_items: size of the catalogue; comes from the data.
        latent_dim: size of z.
        hidden_dims: widths of the encoder's hidden layers, which must be the same, for they are added up.
        input_dropout: probability that an observed item is hidden from the encoder while it is trained.
        prior_weights: of N(0, I), of the previous encoder's posterior and of N(0, exp(10) I) in the composite prior.
        seed: of the initial weights.
    """

    def __init__(
        self,
        n_items: int,
        latent_dim: int = 200,
        hidden_dims: Sequence[int] = (600, 600, 600, 600, 600),
        input_dropout: float = 0.5,
        prior_weights: Sequence[float] = (3 / 20, 3 / 4, 1 / 10),
        seed: int = 0,
    ) -> None:
        super().__init__(n_items, latent_dim, input_dropout)
        for width in hidden_dims:
            check_positive("model.hidden_dims", width)
        if len(set(hidden_dims)) != 1:
            raise UserError(
                f"model.hidden_dims: expected at least one width, all equal, for layers are added up, "
                f"came {list(hidden_dims)}"
            )
        self.encoder = DenseEncoder(n_items, latent_dim, hidden_dims)
        self.decoder_layers = nn.ModuleList()
        self.output = MultinomialOutput(latent_dim, n_items)
        self.reset_parameters(seed)
        self.prior = CompositePrior(self.encoder, prior_weights)

    def reset_parameters(self, seed: int) -> None:
        """Draw all weights anew, as PyTorch draws those of linear layers, which is what the paper's code does."""
        generator = torch.Generator().manual_seed(seed)
        hidden = self.encoder.head.in_features
        for layer, fan_in in (
            (self.encoder.input, self.n_items),
            *((layer, hidden) for layer in self.encoder.layers),
            (self.encoder.head, hidden),
            (self.output, self.latent_dim),
        ):
            for parameter in layer.parameters():
                initialise_uniform(parameter, fan_in, generator)

    def encode(self, histories: SparseRows, *, generator: torch.Generator | None = None) -> GaussianPosterior:
        """Approximate posterior of each user's taste. In training mode, ``generator`` drives the input dropout."""
        posterior: GaussianPosterior = self.encoder(self._visible(histories, generator))
        return posterior

    @torch.no_grad()
    def previous_posterior(self, histories: SparseRows) -> GaussianPosterior:
        """What the composite prior's encoder says of whole histories, nothing hidden."""
        posterior: GaussianPosterior = self.prior.previous_encoder(histories.normalised())
        return posterior

    def prior_log_density(
        self, latent: Float[Tensor, "users latent"], previous: GaussianPosterior
    ) -> Float[Tensor, " users"]:
        """Log-density of the composite prior in nats, per user; ``previous`` is :meth:`previous_posterior` of them."""
        return self.prior.log_density(latent, previous)
