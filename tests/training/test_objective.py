"""The evidence lower bound: closed forms, unbiased gradients, and the bound itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from made_up_histories import random_histories
from torch.distributions import Independent, Normal, kl_divergence

from recsys_vae.errors import UserError
from recsys_vae.models import GaussianPosterior, MultDAE, MultVAE, SparseRows
from recsys_vae.models.multinomial import multinomial_log_likelihood
from recsys_vae.training import MonteCarloELBO, PointLogLikelihood, gaussian_kl, sample_gaussian


@pytest.fixture
def rows() -> SparseRows:
    return SparseRows.from_csr(random_histories(n_users=6, n_items=10, density=0.4))


def small_model(latent_dim: int = 2) -> MultVAE:
    model = MultVAE(10, latent_dim=latent_dim, hidden_dims=[5], seed=4).eval()
    with torch.no_grad():  # away from the small initial weights, so that every term matters
        for name, parameter in model.named_parameters():
            parameter.mul_(1.0 if name.startswith("encoder") else 2.0)
    return model


def test_kl_equals_that_of_torch_distributions() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, log_variance = torch.randn(2, 7, 5, generator=generator, dtype=torch.float64)
    ours = gaussian_kl(GaussianPosterior(mean, log_variance))
    posterior = Independent(Normal(mean, (0.5 * log_variance).exp()), 1)
    prior = Independent(Normal(torch.zeros_like(mean), torch.ones_like(mean)), 1)
    torch.testing.assert_close(ours, kl_divergence(posterior, prior), rtol=1e-12, atol=1e-12)


def test_kl_keeps_its_digits_close_to_the_prior() -> None:
    log_variance = torch.tensor([[1e-3]])
    exact = 0.5 * (np.expm1(1e-3) - 1e-3)
    ours = float(gaussian_kl(GaussianPosterior(torch.zeros(1, 1), log_variance)))
    assert abs(ours - exact) < 1e-3 * exact
    assert float(gaussian_kl(GaussianPosterior(torch.zeros(1, 3), torch.zeros(1, 3)))) == 0.0


def test_draws_have_the_posteriors_moments() -> None:
    posterior = GaussianPosterior(torch.tensor([[1.0, -2.0]]), torch.tensor([[0.5, -3.0]]))
    draws = sample_gaussian(posterior, 40_000, torch.Generator().manual_seed(0))[:, 0]
    error = posterior.standard_deviation[0] / 40_000**0.5
    assert ((draws.mean(0) - posterior.mean[0]).abs() < 4.5 * error).all()
    assert ((draws.var(0) / posterior.log_variance[0].exp() - 1).abs() < 4.5 * (2 / 40_000) ** 0.5).all()


def normal_grid(half_width: float = 7.0, n: int = 71) -> tuple[torch.Tensor, torch.Tensor]:
    """Points of the plane and their weights under N(0, I): the trapezoid rule, which is exact for smooth tails."""
    axis = torch.linspace(-half_width, half_width, n)
    points = torch.cartesian_prod(axis, axis)
    weights = torch.exp(-0.5 * points.square().sum(-1)) / (2 * torch.pi) * (axis[1] - axis[0]) ** 2
    return points, weights


def dense_log_likelihood(model: MultVAE, latent: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """``sum_i x_i log softmax(f(z))_i`` by PyTorch's own log-softmax."""
    return (torch.log_softmax(model.decode(latent), dim=-1) * x).sum(-1)


def test_gradient_of_the_monte_carlo_elbo_is_unbiased(rows) -> None:
    """Compared with an integral over both latent dimensions, which has no noise at all."""
    model = small_model()
    parameters = list(model.parameters())

    def elbo_gradient(log_likelihood: torch.Tensor, kl: torch.Tensor) -> torch.Tensor:
        gradients = torch.autograd.grad((log_likelihood - kl).sum(), parameters)
        return torch.cat([gradient.flatten() for gradient in gradients])

    points, weights = normal_grid()
    posterior = model.encode(rows)
    latents = posterior.mean + posterior.standard_deviation * points.unsqueeze(1)
    expected = weights @ dense_log_likelihood(model, latents, rows.dense())
    exact = elbo_gradient(expected, gaussian_kl(posterior))

    generator = torch.Generator().manual_seed(11)
    objective = MonteCarloELBO(n_samples=2)
    estimates = torch.stack([elbo_gradient(*objective(model, rows, generator)) for _ in range(600)])
    error = estimates.std(dim=0) / len(estimates) ** 0.5
    z = (estimates.mean(dim=0) - exact) / error.clamp_min(1e-4)
    assert z.abs().max() < 4.5  # the largest of 154 normal deviates
    assert 0.4 < float((z**2).mean()) < 1.8


def test_variance_falls_as_one_over_the_number_of_draws(rows) -> None:
    model = small_model()
    variances = []
    for n_samples in (1, 4):
        generator = torch.Generator().manual_seed(5)
        objective = MonteCarloELBO(n_samples)
        values = torch.stack([objective(model, rows, generator).log_likelihood.detach() for _ in range(500)])
        variances.append(values.var(dim=0)[1:])  # the first user has no items
    ratio = (variances[0] / variances[1]).log().mean().exp()
    assert 3.0 < ratio < 5.3


def test_elbo_is_below_the_log_evidence(rows) -> None:
    """The evidence of a two-dimensional latent by integration over the prior."""
    model = small_model()
    with torch.no_grad():
        points, weights = normal_grid()
        likelihood = dense_log_likelihood(model, points.unsqueeze(1), rows.dense()).double().exp()
        evidence = (weights.double() @ likelihood).log()
        generator = torch.Generator().manual_seed(2)
        terms = [MonteCarloELBO(50)(model, rows, generator) for _ in range(20)]
        elbo = torch.stack([t.log_likelihood - t.kl for t in terms]).double()
    gap = evidence - elbo.mean(dim=0)
    error = elbo.std(dim=0) / 20**0.5
    assert (gap > -4.5 * error - 1e-5).all()  # float32 rounding, where the first user has no items at all
    assert (gap[1:] > 4.5 * error[1:]).all()  # an untrained encoder is not the posterior
    assert (gap < 5.0).all()


def test_point_likelihood_is_that_of_the_mean(rows) -> None:
    model = MultDAE(10, latent_dim=2, hidden_dims=[5], seed=4).eval()
    terms = PointLogLikelihood()(model, rows, None)
    torch.testing.assert_close(terms.log_likelihood, multinomial_log_likelihood(model(rows), rows))
    assert (terms.kl == 0).all()


def test_n_samples_out_of_range() -> None:
    with pytest.raises(UserError, match="n_samples"):
        MonteCarloELBO(0)
