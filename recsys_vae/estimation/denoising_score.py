"""A network for the score of noisy observations, trained by denoising score matching (Vincent 2011).

The network predicts what the noise hides, in the scaling of Karras et al. 2022 (table 1), under which its target has
unit variance at any noise; its score is Tweedie's formula solved for the gradient.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recsys_vae.errors import UserError
from recsys_vae.estimation.arguments import Numbers, finite, positive, whole
from recsys_vae.estimation.tweedie import tweedie_mean


class DenoisingScore(nn.Module):
    """``grad log p(x)`` of ``x = mu + standard_deviation * noise``, for a law of ``mu`` that is known by draws.

    Args:
        latent_dim: coordinates of ``x``.
        standard_deviation: of the noise, the same in every coordinate.
        hidden_dim: width of the two hidden layers.
    """

    def __init__(self, latent_dim: int, standard_deviation: float, hidden_dim: int = 64) -> None:
        super().__init__()
        self.standard_deviation = float(positive("standard_deviation", standard_deviation))
        self.centre: Tensor
        self.spread: Tensor
        self.register_buffer("centre", torch.zeros(latent_dim))
        self.register_buffer("spread", torch.ones(latent_dim))
        self.network = nn.Sequential(
            nn.Linear(latent_dim, hidden_dim),
            nn.SiLU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.SiLU(),
            nn.Linear(hidden_dim, latent_dim),
        )

    def denoised(self, x: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch latent"]:
        """The network's ``E[mu | x]``."""
        keep, add, shrink = self._scaling()
        off = x - self.centre
        denoised: Tensor = self.centre + keep * off + add * self.network(shrink * off)
        return denoised

    def score(self, x: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch latent"]:
        """The score: :func:`tweedie_mean` of it is :meth:`denoised`."""
        return (self.denoised(x) - x) / self.standard_deviation**2

    def posterior_mean(self, x: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch latent"]:
        """``E[mu | x]`` by Tweedie's formula."""
        return tweedie_mean(x, self.score(x), self.standard_deviation**2)

    def loss(
        self, clean: Float[Tensor, "batch latent"], noise: Float[Tensor, "batch latent"]
    ) -> Float[Tensor, ""]:
        """Mean square of what the network misses of its target; its least value belongs to the true score."""
        keep, add, shrink = self._scaling()
        off = clean - self.centre + self.standard_deviation * noise
        target = (clean - self.centre - keep * off) / add
        missed: Tensor = self.network(shrink * off) - target
        return missed.square().mean()

    def _scaling(self) -> tuple[Tensor, Tensor, Tensor]:
        """Karras' c_skip, c_out and c_in, one a coordinate."""
        total = (self.spread**2 + self.standard_deviation**2).sqrt()
        return (self.spread / total) ** 2, self.spread * self.standard_deviation / total, 1.0 / total


def fit_denoising_score(
    clean: Numbers,
    standard_deviation: float,
    *,
    hidden_dim: int = 64,
    n_steps: int = 1500,
    batch_size: int = 512,
    learning_rate: float = 1e-2,
    seed: int = 0,
) -> DenoisingScore:
    """Train a :class:`DenoisingScore` on draws of what the noise hides; the noise is drawn anew at every step.

    Each draw comes with a noise and with its negative, which takes the odd part of the gradient's variance away. Adam,
    whose rate falls to 0 along a cosine. The result follows from the arguments, ``seed`` included.

    Args:
        clean: draws of the prior, ``(n, latent)``, at least two.
        standard_deviation: of the noise.
        hidden_dim, n_steps, batch_size, learning_rate: of the training.
        seed: of the weights, the batches and the noise.

    Raises :class:`UserError` for draws of the wrong shape or without spread, and a noise that is not positive.
    """
    draws = finite("clean", clean).float()
    if draws.ndim != 2 or draws.shape[0] < 2 or not bool((draws.std(dim=0) > 0).all()):
        raise UserError(f"clean: expected (n, latent) draws that differ, came shape {tuple(draws.shape)}")
    for name, value in (("hidden_dim", hidden_dim), ("n_steps", n_steps), ("batch_size", batch_size)):
        whole(name, value, 1)
    generator = torch.Generator().manual_seed(seed)
    model = DenoisingScore(draws.shape[1], standard_deviation, hidden_dim)
    for layer in model.network:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=1.0 / math.sqrt(layer.in_features), generator=generator)
            nn.init.zeros_(layer.bias)
    model.centre.copy_(draws.mean(dim=0))
    model.spread.copy_(draws.std(dim=0))
    optimiser = torch.optim.Adam(model.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, n_steps)
    for _ in range(n_steps):
        chosen = draws[torch.randint(len(draws), (batch_size,), generator=generator)]
        noise = torch.randn(chosen.shape, generator=generator)
        optimiser.zero_grad(set_to_none=True)
        loss = model.loss(chosen.repeat(2, 1), torch.cat([noise, -noise]))
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    return model.requires_grad_(False)
