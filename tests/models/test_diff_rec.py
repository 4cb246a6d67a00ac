"""DiffRec: its process, bound and Tweedie's formula against closed forms, and a toy whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from contract import ModelContract
from made_up_histories import checkerboard, random_histories
from scipy.sparse import csr_array
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from recsys_vae.errors import UserError
from recsys_vae.models import DiffRec, MultVAE, SparseRows
from recsys_vae.models.diff_rec import step_embedding
from recsys_vae.models.gaussian_diffusion import GaussianDiffusion
from recsys_vae.training import DiffusionELBO, MonteCarloELBO

PROCESS = GaussianDiffusion(n_steps=4, noise_scale=0.8, noise_min=0.1, noise_max=0.9)


def train(model: DiffRec, matrix: csr_array, n_steps: int, lr: float = 1e-2, **objective) -> DiffRec:
    generator = torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(model.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, n_steps)
    maximise, rows = DiffusionELBO(**objective), SparseRows.from_csr(matrix)
    maximise.begin_training(model)
    model.train()
    for _ in range(n_steps):
        terms = maximise(model, rows, generator)
        optimiser.zero_grad()
        (terms.kl - terms.log_likelihood).mean().backward()
        optimiser.step()
        schedule.step()
    return model.eval()


class TestDiffRec(ModelContract):
    starts_at_random = True

    def fresh(self, n_items):
        return DiffRec(n_items, hidden_dims=[16], n_steps=3, seed=1)

    def fitted(self, matrix):
        return train(self.fresh(matrix.shape[1]), matrix, 150)


def test_steps_of_noise_compose_to_the_closed_form_marginal() -> None:
    mean, variance = 1.0, 0.0
    for step in range(1, 5):  # x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(beta_t) noise, one step after the other
        after, before = 0.8 * (0.1 + (step - 1) / 3 * 0.8), 0.0
        if step > 1:
            before = 0.8 * (0.1 + (step - 2) / 3 * 0.8)
        beta = 1.0 - (1.0 - after) / (1.0 - before)
        mean, variance = math.sqrt(1.0 - beta) * mean, (1.0 - beta) * variance + beta
        n = 40_000
        noise = torch.randn(n, 1, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        drawn = PROCESS.corrupt(torch.full_like(noise, 3.0), torch.full((n,), step), noise)
        assert float(drawn.mean()) == pytest.approx(3.0 * mean, abs=4.0 * math.sqrt(variance / n))
        assert float(drawn.var()) == pytest.approx(variance, rel=4.0 * math.sqrt(2.0 / n))
        zero = PROCESS.corrupt(torch.ones(1, 1).double(), torch.tensor([step]), torch.zeros(1, 1).double())
        assert float(zero) == pytest.approx(mean, rel=1e-12)


def reverse(clean: torch.Tensor, noisy: torch.Tensor, step: int) -> Independent:
    """``q(x_{t-1} | x_t, x_0)`` by Bayes' rule: the product of two Gaussians in x_{t-1}."""
    before, after = (float(PROCESS.variances[t]) for t in (step - 1, step))
    keep = (1.0 - after) / (1.0 - before)
    precision = 1.0 / before + keep / (1.0 - keep)
    mean = (math.sqrt(1.0 - before) * clean / before + math.sqrt(keep) * noisy / (1.0 - keep)) / precision
    return Independent(Normal(mean, torch.full_like(mean, precision**-0.5)), 1)


@pytest.mark.parametrize("step", [2, 3, 4])
def test_weight_is_the_exact_kl_and_the_step_back_the_exact_mean(step) -> None:
    clean, denoised, noisy = torch.randn(
        3, 7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    exact = kl_divergence(reverse(clean, noisy, step), reverse(denoised, noisy, step))
    weight = PROCESS.elbo_weights[step - 1]
    torch.testing.assert_close(weight * (clean - denoised).square().sum(-1), exact, rtol=1e-10, atol=0)
    back = PROCESS.earlier_mean(noisy, PROCESS.score(noisy, denoised, step), step, step - 1)
    torch.testing.assert_close(back, reverse(denoised, noisy, step).mean, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("step", [1, 2, 4])
def test_noise_score_and_posterior_mean_are_one_another_by_tweedie(step) -> None:
    generator = torch.Generator().manual_seed(2)
    root, mean, noisy = (torch.randn(*s, generator=generator).double() for s in ((3, 3), (3,), (6, 3)))
    prior, v = root @ root.T + torch.eye(3).double(), float(PROCESS.variances[step])
    signal = math.sqrt(1.0 - v)
    marginal_covariance = signal**2 * prior + v * torch.eye(3).double()
    gain = signal * prior @ torch.linalg.inv(marginal_covariance)
    exact = mean + (noisy - signal * mean) @ gain.T  # E[x_0 | x_t] of jointly Gaussian x_0 and x_t
    at = noisy.clone().requires_grad_()
    MultivariateNormal(signal * mean, marginal_covariance).log_prob(at).sum().backward()
    score = PROCESS.score(noisy, exact, step)
    torch.testing.assert_close(score, at.grad, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(PROCESS.noise(noisy, exact, step), -math.sqrt(v) * score)
    torch.testing.assert_close((noisy + v * score) / signal, exact, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(PROCESS.earlier_mean(noisy, score, step, 0), exact, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("weighting", ["elbo", "simplified"])
def test_terms_are_the_sum_over_steps_however_steps_are_drawn(weighting) -> None:
    model = DiffRec(6, [], n_steps=3, noise_scale=0.5, input_dropout=0.0, seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()  # a denoiser that always says 0: every error is the number of items
    rows = SparseRows.from_csr(random_histories(n_users=4000, n_items=6, seed=1, empty_row=False))
    weights = model.diffusion.elbo_weights if weighting == "elbo" else torch.ones(3)
    error = float(rows.values.sum()) / 4000
    for share in (0.2, 1.0):
        with torch.no_grad():
            terms = DiffusionELBO(weighting, share)(model, rows, torch.Generator().manual_seed(0))
        for found, expected in ((-terms.log_likelihood, weights[0]), (terms.kl, weights[1:].sum())):
            deviation = float(found.std()) / math.sqrt(4000)
            assert float(found.mean()) == pytest.approx(error * float(expected), abs=4.0 * deviation)


def test_trained_denoiser_is_close_to_the_exact_posterior_mean() -> None:
    rng = np.random.default_rng(0)
    root = np.array([[1.0, 0.0, 0.0], [0.8, 0.6, 0.0], [-0.5, 0.3, 0.7]])
    prior, mean = torch.from_numpy(root @ root.T).float(), torch.tensor([0.5, -0.3, 0.2])
    data = (rng.standard_normal((2000, 3)) @ root.T + mean.numpy()).astype(np.float32)
    settings = {"noise_scale": 1.0, "noise_min": 0.2, "noise_max": 0.6, "input_dropout": 0.0}
    model = train(DiffRec(3, [32], n_steps=2, seed=2, **settings), csr_array(data), 1200)
    generator = torch.Generator().manual_seed(5)
    clean = mean + torch.randn(1000, 3, generator=generator) @ torch.from_numpy(root).float().T
    for step in (1, 2):
        steps, v = torch.full((1000,), step), float(model.diffusion.variances[step])
        noisy = model.diffusion.corrupt(clean, steps, torch.randn(1000, 3, generator=generator))
        signal = math.sqrt(1.0 - v)
        gain = signal * prior @ torch.linalg.inv(signal**2 * prior + v * torch.eye(3))
        exact = mean + (noisy - signal * mean) @ gain.T
        with torch.no_grad():
            error = (model.denoise(noisy, steps) - exact).square().mean()
        assert float(error / exact.var(dim=0).mean()) < 0.01
        other = mean + (noisy - signal * mean) @ (gain.T * 0.8)  # what such an error would not let pass
        assert float((other - exact).square().mean() / exact.var(dim=0).mean()) > 0.01


def test_score_follows_the_paper_s_recursion() -> None:
    model = DiffRec(20, [8], n_steps=4, noise_scale=0.5, n_denoising_steps=3, seed=1)
    matrix = random_histories(n_users=5, n_items=20)
    v = [0.0, *(0.5 * (0.1 + k / 3 * 0.9) for k in range(4))]
    state = math.sqrt(1.0 - v[3]) * torch.from_numpy(matrix.toarray())
    for t in (3, 2, 1):  # eq. 7 and 8 of the paper, in its own coefficients
        keep = (1.0 - v[t]) / (1.0 - v[t - 1])
        with torch.no_grad():
            denoised = model.eval().denoise(state, torch.full((5,), t))
        state = (
            math.sqrt(keep) * v[t - 1] * state + math.sqrt(1.0 - v[t - 1]) * (1.0 - keep) * denoised
        ) / v[t]
    torch.testing.assert_close(model.score(matrix), state, rtol=1e-4, atol=1e-5)


def test_the_denoiser_knows_the_step_and_hides_items_only_in_training() -> None:
    assert len({tuple(row) for row in step_embedding(torch.arange(1, 41), 10).tolist()}) == 40
    model = DiffRec(20, [8], seed=1)
    noisy = torch.randn(4, 20, generator=torch.Generator().manual_seed(0))
    first, second = (model.eval().denoise(noisy, torch.full((4,), step)) for step in (1, 5))
    assert not torch.allclose(first, second)
    hidden = model.train().denoise(noisy, torch.full((4,), 1), generator=torch.Generator().manual_seed(1))
    assert not torch.allclose(first, hidden)


def test_an_objective_refuses_a_model_that_it_does_not_train() -> None:
    n_items = checkerboard().shape[1]
    with pytest.raises(UserError, match="DiffusionELBO trains a DiffRec, came MultVAE"):
        DiffusionELBO().begin_training(MultVAE(n_items))
    with pytest.raises(UserError, match="MonteCarloELBO trains a LatentModel, came DiffRec"):
        MonteCarloELBO().begin_training(DiffRec(n_items))
