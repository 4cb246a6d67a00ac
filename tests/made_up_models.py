"""Small models with a posterior over tastes: PPCA, whose posterior is known, and Mult-VAEs."""

from __future__ import annotations

import functools

import numpy as np
import torch
from scipy.sparse import csr_array

from recsys_vae.models import PPCA, MultVAE, SparseRows


def grouped_histories(n_users: int = 150, n_items: int = 50, seed: int = 0) -> csr_array:
    """Each user likes mostly one of five groups of items, and some anything: many directions of taste matter."""
    rng = np.random.default_rng(seed)
    groups = rng.integers(5, size=n_users)
    likes = np.arange(n_items) % 5 == groups[:, None]
    probability = np.where(likes, 0.6, 0.1)
    return csr_array((rng.random((n_users, n_items)) < probability).astype(np.float32))


@functools.cache
def ppca(*, rotated: bool = False, latent_dim: int = 20) -> PPCA:
    """Fitted, in float64. The columns of W are orthogonal, and so is the posterior's covariance diagonal; rotating
    the taste changes nothing about x and makes the covariance full."""
    model = PPCA(50, latent_dim).double().fit(grouped_histories())
    if rotated:
        generator = torch.Generator().manual_seed(5)
        rotation, _ = torch.linalg.qr(
            torch.randn(latent_dim, latent_dim, dtype=torch.float64, generator=generator)
        )
        model.weight.copy_(model.weight @ rotation)
        model.noise_variance.mul_(0.5)  # a narrower posterior, of more unequal directions
    return model


def random_vae(hidden_dims: tuple[int, ...] = (8,), n_items: int = 30, latent_dim: int = 4) -> MultVAE:
    """Weights far larger than at the start of training, so that nothing is linear or uniform."""
    model = MultVAE(n_items, latent_dim=latent_dim, hidden_dims=hidden_dims, seed=1).eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.7 * torch.randn(parameter.shape, generator=generator))
    return model


@functools.cache
def trained_vae(hidden_dims: tuple[int, ...] = (10,), latent_dim: int = 5) -> MultVAE:
    """Trained for a moment on :func:`grouped_histories`."""
    model = MultVAE(50, latent_dim=latent_dim, hidden_dims=hidden_dims, input_dropout=0.0, seed=3)
    rows = SparseRows.from_csr(grouped_histories())
    generator = torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(200):
        mean, log_variance = model.encode(rows)
        noise = torch.randn(mean.shape, generator=generator)
        likelihood = model.log_likelihood(mean + (0.5 * log_variance).exp() * noise, rows)
        divergence = 0.5 * (mean.square() + log_variance.exp() - log_variance - 1.0).sum(dim=-1)
        optimiser.zero_grad()
        (divergence - likelihood).mean().backward()
        optimiser.step()
    return model.eval()


def latent_points(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Draws from the prior."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
