"""The prior that RecVAE trains its encoder with (Shenbin et al. 2020, arXiv:1912.11160, section 3.3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recsys_vae.errors import UserError
from recsys_vae.models.gaussian_posterior import GaussianPosterior

# log N(0; 0, 1)
_LOG_NORMALISER = -0.5 * math.log(2.0 * math.pi)


class CompositePrior(nn.Module):
    """A mixture of N(0, 1), the posterior that the previous encoder gives the same user, and a wide normal.

    ``p(z_j | x) = a_1 N(z_j; 0, 1) + a_2 q_previous(z_j | x) + a_3 N(z_j; 0, exp(10))`` in every coordinate j, as the
    paper's code has it (its eq. 6 mixes whole vectors). The middle part keeps the encoder from forgetting, between
    updates of the decoder, what it knew of the user.

    Args:
        encoder: whose weights are copied, and not trained.
        weights: of the three parts, in this order.
    """

    wide_log_variance = 10.0

    def __init__(self, encoder: nn.Module, weights: Sequence[float] = (3 / 20, 3 / 4, 1 / 10)) -> None:
        super().__init__()
        if len(weights) != 3 or not all(w >= 0.0 for w in weights) or not math.isclose(sum(weights), 1.0):
            raise UserError(
                "model.prior_weights: expected three numbers of at least 0 that sum to 1, "
                f"came {list(weights)}"
            )
        self.log_weights = [math.log(w) if w else -math.inf for w in weights]
        self.previous_encoder = deepcopy(encoder).requires_grad_(False)

    def remember(self, encoder: nn.Module) -> None:
        """Make ``encoder``, as it is now, the previous one."""
        self.previous_encoder.load_state_dict(encoder.state_dict())

    def log_density(
        self, latent: Float[Tensor, "users latent"], previous: GaussianPosterior
    ) -> Float[Tensor, " users"]:
        """``log p(z | x)`` in nats, per user; ``previous`` is what the previous encoder says of the whole history."""
        standard, old, wide = (weight + _LOG_NORMALISER for weight in self.log_weights)
        # What does not depend on z is put together first: it is constants, or without a gradient.
        squares = latent.square()
        half_precision = -0.5 * (-previous.log_variance).exp()
        parts = (
            -0.5 * squares + standard,
            (latent - previous.mean).square() * half_precision + (old - 0.5 * previous.log_variance),
            -0.5 * math.exp(-self.wide_log_variance) * squares + (wide - 0.5 * self.wide_log_variance),
        )
        return torch.stack(parts).logsumexp(dim=0).sum(dim=-1)
