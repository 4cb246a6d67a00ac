"""DiffRec: a diffusion model of the interaction vector (Wang et al. 2023, arXiv:2304.04971)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from scipy.sparse import csr_array
from torch import Tensor, nn

from recsys_vae.errors import UserError
from recsys_vae.models.base import GradientModel, check_interval, check_positive
from recsys_vae.models.gaussian_diffusion import GaussianDiffusion
from recsys_vae.models.initialisation import initialise_bias, initialise_weight
from recsys_vae.models.sparse_rows import SparseRows


class DiffRec(GradientModel):
    """An MLP learns to tell a history from itself under Gaussian noise; its answer, step by step, is the score.

    To rank, the history is taken for the mean of ``x_t`` after ``n_denoising_steps`` of the forward process, and led
    back along the means ``E[x_{t-1} | x_t]``, no noise added anywhere. Noise on every item makes the network's input
    dense: a batch costs ``users * items`` numbers, as its scores do.

    Args:
        n_items: size of the catalogue; comes from the data.
        hidden_dims: widths of the hidden layers, tanh after each; none for a linear denoiser.
        time_dim: size of the sinusoidal embedding of the step; even.
        n_steps: of the forward process, the paper's T.
        noise_scale: the paper's s: the variance of the noise at step t is ``noise_scale`` times a number between
            ``noise_min`` (t = 1) and ``noise_max`` (t = T).
        noise_min: at least above 0.
        noise_max: above ``noise_min``.
        n_denoising_steps: with which a history is led back to rank, at most ``n_steps``; ``None`` means all.
        input_dropout: probability that an item of the noisy input is hidden from the network during training.
        seed: of the initial weights.
    """

    def __init__(
        self,
        n_items: int,
        hidden_dims: Sequence[int] = (600,),
        time_dim: int = 10,
        n_steps: int = 5,
        noise_scale: float = 0.01,
        noise_min: float = 0.1,
        noise_max: float = 1.0,
        n_denoising_steps: int | None = None,
        input_dropout: float = 0.5,
        seed: int = 0,
    ) -> None:
        super().__init__(n_items)
        for width in hidden_dims:
            check_positive("model.hidden_dims", width)
        check_positive("model.time_dim", time_dim)
        if time_dim % 2:
            raise UserError(f"model.time_dim: expected an even number, came {time_dim}")
        check_interval("model.input_dropout", input_dropout, 0.0, 1.0)
        self.diffusion = GaussianDiffusion(n_steps, noise_scale, noise_min, noise_max)
        self.n_denoising_steps = n_steps if n_denoising_steps is None else n_denoising_steps
        check_positive("model.n_denoising_steps", self.n_denoising_steps)
        if self.n_denoising_steps > n_steps:
            raise UserError(
                f"model.n_denoising_steps: expected at most n_steps, {n_steps}, came {n_denoising_steps}"
            )
        self.time_dim = time_dim
        self.input_dropout = input_dropout
        widths = [n_items, *hidden_dims, n_items]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.time_layer = nn.Linear(time_dim, widths[1], bias=False)
        self.reset_parameters(seed)

    def reset_parameters(self, seed: int) -> None:
        """Draw all weights anew, as the paper's code: Xavier, biases close to zero."""
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            initialise = initialise_weight if parameter.ndim == 2 else initialise_bias
            initialise(parameter, generator)

    def denoise(
        self,
        noisy: Float[Tensor, "users items"],
        steps: Int[Tensor, " users"],
        *,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "users items"]:
        """The network's ``E[x_0 | x_t]``, float32; in training mode, ``generator`` drives the input dropout."""
        if self.training and self.input_dropout:
            uniform = torch.rand(noisy.shape, generator=generator, device=noisy.device)
            noisy = noisy * (uniform >= self.input_dropout) / (1.0 - self.input_dropout)
        hidden = self._hidden(noisy, steps)
        return (self.layers[-1](hidden) if len(self.layers) > 1 else hidden).float()

    def _hidden(self, noisy: Tensor, steps: Tensor) -> Tensor:
        """What the last layer gets, or gives where it is the only one."""
        hidden: Tensor = self.layers[0](noisy) + self.time_layer(step_embedding(steps, self.time_dim))
        for layer in self.layers[1:-1]:
            hidden = layer(hidden.tanh())
        return hidden.tanh() if len(self.layers) > 1 else hidden

    @torch.no_grad()
    def score(self, histories: csr_array) -> Float[Tensor, "users items"]:
        """The denoised history."""
        return self.denoise(*self._last_state(histories))

    def _last_state(self, histories: csr_array) -> tuple[Tensor, Tensor]:
        """``x_1``, led back from ``n_denoising_steps``, and the step: ``E[x_0 | x_1]`` is the network's own answer."""
        self.check_histories(histories)
        self.eval()
        clean = SparseRows.from_csr(histories, self.device).dense()
        steps = torch.full((len(clean),), self.n_denoising_steps, device=clean.device)
        state = self.diffusion.corrupt(clean, steps, torch.zeros_like(clean))
        for step in range(self.n_denoising_steps, 1, -1):
            denoised = self.denoise(state, torch.full_like(steps, step))
            score = self.diffusion.score(state, denoised, step)
            state = self.diffusion.earlier_mean(state, score, step, step - 1)
        return state, torch.ones_like(steps)

    @torch.no_grad()
    def user_vectors(self, histories: csr_array) -> Float[Tensor, "users features_plus_one"]:
        """The last hidden layer, then a 1, whose products with :meth:`item_vectors` are the scores.

        Raises :class:`UserError` for a denoiser without a hidden layer.
        """
        self._check_hidden_layer()
        hidden = self._hidden(*self._last_state(histories))
        return torch.cat([hidden, hidden.new_ones(len(hidden), 1)], dim=-1)

    @torch.no_grad()
    def item_vectors(self) -> Float[Tensor, "items features_plus_one"]:
        """Output weights, then the bias; raises like :meth:`user_vectors`."""
        self._check_hidden_layer()
        output = self.layers[-1]
        assert isinstance(output, nn.Linear)
        return torch.cat([output.weight, output.bias.unsqueeze(-1)], dim=-1)

    def _check_hidden_layer(self) -> None:
        if len(self.layers) < 2:
            raise UserError(
                "model.hidden_dims: expected a hidden layer, whose values are the vectors, came []"
            )


def step_embedding(steps: Int[Tensor, " users"], size: int) -> Float[Tensor, "users size"]:
    """Cosines, then sines, of the step at wavelengths from ``2 pi`` up to ``20,000 pi`` (Vaswani et al. 2017, 3.5)."""
    half = size // 2
    frequencies = torch.exp(-math.log(10_000.0) / half * torch.arange(half, device=steps.device))
    angles = steps.unsqueeze(-1) * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)
