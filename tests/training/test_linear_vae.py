"""A linear VAE trained by our own ELBO must end at probabilistic PCA (Lucas, Tucker, Grosse & Norouzi 2019).

"Don't Blame the ELBO!": for a linear decoder with Gaussian noise, a linear encoder with one learned
variance for each coordinate is enough for the bound to touch the log-evidence at its maximum, where W has orthogonal
columns; and the bound has no maximum elsewhere. So the closed form says where training must end, and at what value.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles
from scipy.sparse import csr_array
from torch import Tensor, nn

from recsys_vae.models import PPCA, GaussianPosterior, SparseRows
from recsys_vae.training import MonteCarloELBO

N_USERS, N_ITEMS, LATENT_DIM = 500, 12, 3
N_STEPS, LEARNING_RATE = 2000, 0.05


class LinearVAE(nn.Module):
    """``x | z ~ N(W z + mean, noise_variance I)``, ``q(z|x) = N(V (x - mean), D)``; the mean is the data's."""

    def __init__(self, mean: Tensor, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        small = [0.1 * torch.randn(N_ITEMS, LATENT_DIM, generator=generator).double() for _ in range(2)]
        self.register_buffer("mean", mean)
        self.decoder, self.encoder = (nn.Parameter(weight) for weight in small)
        self.log_variance = nn.Parameter(torch.zeros(LATENT_DIM, dtype=torch.float64))
        self.log_noise_variance = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def encode(self, histories: SparseRows, *, generator: torch.Generator | None = None) -> GaussianPosterior:
        mean = (histories.dense().double() - self.mean) @ self.encoder
        return GaussianPosterior(mean, self.log_variance.expand_as(mean))

    def log_likelihood(
        self,
        latent: Tensor,
        histories: SparseRows,
        *,
        item_share: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        expected = latent @ self.decoder.T + self.mean
        distance = (histories.dense().double() - expected).square().sum(-1)
        log_normaliser = N_ITEMS * (math.log(2 * math.pi) + self.log_noise_variance)
        return -0.5 * (distance * torch.exp(-self.log_noise_variance) + log_normaliser)

    def expected_elbo(self, histories: SparseRows) -> Tensor:
        """What the Monte Carlo ELBO estimates: the expectation of a quadratic form is known."""
        mean, log_variance = self.encode(histories)
        spread = (log_variance.exp() * self.decoder.square().sum(0)).sum(-1)
        expectation = self.log_likelihood(mean, histories) - 0.5 * spread / self.log_noise_variance.exp()
        return expectation - 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1)


@functools.cache
def data() -> SparseRows:
    """Draws of a model whose three directions have 12, 5 and 2 times the noise's variance above it."""
    rng = np.random.default_rng(3)
    directions = np.linalg.qr(rng.standard_normal((N_ITEMS, LATENT_DIM)))[0]
    weight = directions * np.sqrt(0.5 * np.asarray([12.0, 5.0, 2.0]))
    noise = np.sqrt(0.5) * rng.standard_normal((N_USERS, N_ITEMS))
    x = rng.standard_normal((N_USERS, LATENT_DIM)) @ weight.T + noise + 1.0
    return SparseRows.from_csr(csr_array(x.astype(np.float32)))


@functools.cache
def closed_form() -> PPCA:
    return PPCA(N_ITEMS, LATENT_DIM).double().fit(csr_array(data().dense().double().numpy()))


def at_closed_form() -> LinearVAE:
    """The linear VAE that is the PPCA model with its exact posterior."""
    ppca = closed_form()
    vae = LinearVAE(ppca.mean)
    precision = ppca.weight.T @ ppca.weight + ppca.noise_variance * torch.eye(LATENT_DIM)
    inverse = torch.linalg.inv(precision)
    with torch.no_grad():
        vae.decoder.copy_(ppca.weight)
        vae.encoder.copy_(ppca.weight @ inverse)
        vae.log_variance.copy_((ppca.noise_variance * inverse).diagonal().log())
        vae.log_noise_variance.copy_(ppca.noise_variance.log())
    return vae


@functools.cache
def trained() -> LinearVAE:
    """Full batches and one fresh draw a step, the learning rate falling to 0 like a cosine."""
    vae = LinearVAE(closed_form().mean, seed=1)
    objective = MonteCarloELBO()
    generator = torch.Generator().manual_seed(7)
    optimiser = torch.optim.Adam(vae.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, N_STEPS)
    for _ in range(N_STEPS):
        terms = objective(vae, data(), generator)
        optimiser.zero_grad()
        (terms.kl - terms.log_likelihood).mean().backward()
        optimiser.step()
        schedule.step()
    return vae.requires_grad_(False)


def next_best_loss() -> float:
    """Nats a user by which the evidence at the best other stationary point falls short: the third direction unused.

    At a stationary point the columns of W are eigenvectors, and the noise is the mean of the eigenvalues that are left
    (Tipping & Bishop 1999, appendix A); minus twice the evidence is the sum of the logarithms of all these variances,
    and a constant.
    """
    ppca = closed_form()
    excess = ppca.weight.square().sum(0)
    noise = float(ppca.noise_variance)
    n_left = N_ITEMS - LATENT_DIM
    third = float(excess[-1]) + noise
    pooled = (n_left * noise + third) / (n_left + 1)
    return 0.5 * ((n_left + 1) * math.log(pooled) - n_left * math.log(noise) - math.log(third))


def test_at_the_closed_form_the_elbo_is_the_log_evidence_of_every_user_and_its_gradient_vanishes() -> None:
    vae = at_closed_form()
    evidence = closed_form().log_evidence(data())
    torch.testing.assert_close(vae.expected_elbo(data()), evidence, rtol=0, atol=1e-9)

    objective = MonteCarloELBO()
    generator = torch.Generator().manual_seed(0)
    parameters = list(vae.parameters())
    values, gradients = [], []
    for _ in range(400):
        terms = objective(vae, data(), generator)
        elbo = terms.log_likelihood - terms.kl
        values.append(elbo.detach())
        found = torch.autograd.grad(elbo.mean(), parameters)
        gradients.append(torch.cat([gradient.flatten() for gradient in found]))
    for estimates, expected in ((torch.stack(values), evidence), (torch.stack(gradients), torch.zeros(()))):
        z = (estimates.mean(0) - expected) / (estimates.std(0) / len(estimates) ** 0.5)
        assert z.abs().max() < 4.5  # the largest of 500, then of 76, normal deviates
        assert 0.5 < float(z.square().mean()) < 1.6


def test_training_ends_at_the_log_evidence() -> None:
    evidence = closed_form().log_evidence(data())
    elbo = trained().expected_elbo(data())
    gap = float((evidence - elbo).mean())
    # The maximum is the closed form's: nothing trained may be above it.
    assert gap > 0.0
    # What is known from n draws alone costs half a nat over n for each of the 76 parameters. In the last sixth of the
    # steps, over which the learning rate falls from a fifteenth to nothing, n is 333 draws of 500 users; the factor of
    # 4 allows for draws whose gradient scatters twice as wide as a likelihood's own would.
    tolerance = 4.0 * 76 / (2 * 333 * N_USERS)
    assert tolerance < next_best_loss() / 100
    assert gap < tolerance

    # And so says the estimate that a user of the library sees.
    objective, generator = MonteCarloELBO(100), torch.Generator().manual_seed(5)
    terms = [objective(trained(), data(), generator) for _ in range(10)]
    estimates = torch.stack([(term.log_likelihood - term.kl).mean() for term in terms])
    error = float(estimates.std()) / len(estimates) ** 0.5
    assert abs(float(estimates.mean()) - float(evidence.mean())) < 4.5 * error + tolerance


def test_training_finds_the_principal_subspace_its_variances_and_the_noise() -> None:
    # A parameter known from 333 draws of 500 users is out by about 1 in 400; the bounds are five to twenty times that.
    ppca, vae = closed_form(), trained()
    decoder = vae.decoder
    assert np.rad2deg(subspace_angles(decoder.numpy(), ppca.weight.numpy())).max() < 1.0
    variances = torch.linalg.eigvalsh(decoder.T @ decoder).flip(0)
    torch.testing.assert_close(variances, ppca.weight.square().sum(0), rtol=0.02, atol=0)
    assert float(vae.log_noise_variance.exp()) == pytest.approx(float(ppca.noise_variance), rel=0.0125)
    # The encoder's covariance is diagonal, so the exact posterior must be: columns of W at right angles.
    unit = decoder / decoder.norm(dim=0)
    assert (unit.T @ unit - torch.eye(LATENT_DIM)).abs().max() < 0.02
    order = decoder.norm(dim=0).argsort(descending=True)
    exact = ppca.exact_posterior(data())
    variance = vae.log_variance.exp()[order]
    torch.testing.assert_close(variance, exact.covariance.diagonal(), rtol=0.04, atol=0)
    signs = (decoder[:, order] * ppca.weight).sum(0).sign()
    mean = vae.encode(data()).mean[:, order] * signs
    # In units of the posterior's own standard deviation.
    assert ((mean - exact.mean) / exact.covariance.diagonal().sqrt()).square().mean().sqrt() < 0.05
