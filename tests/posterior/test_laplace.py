"""The Gaussian at the mode: exact for PPCA; and the coordinates in which it is standard normal."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from made_up_histories import random_histories
from made_up_models import grouped_histories, latent_points, ppca, random_vae, trained_vae
from scipy.sparse import csr_array

from recsys_vae.errors import UserError
from recsys_vae.models import PPCA, MultVAE, SparseRows
from recsys_vae.posterior import Laplace, Mode, PosteriorDensity
from recsys_vae.posterior.laplace import WhitenedDensity, laplace_gaussian


def rows_of(matrix) -> SparseRows:
    return SparseRows.from_csr(matrix)


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("power", [1.0, 0.3, 4.0])
def test_it_is_the_exact_posterior_of_ppca(rotated, power) -> None:
    model, matrix = ppca(rotated=rotated), grouped_histories(6, seed=1)
    exact = model.exact_posterior(rows_of(matrix), likelihood_power=power)
    density = PosteriorDensity(model.likelihood(rows_of(matrix)), power)
    gaussian = laplace_gaussian(density, exact.mean)
    covariance = gaussian.scale_tril @ gaussian.scale_tril.mT
    torch.testing.assert_close(covariance, exact.covariance.expand_as(covariance), rtol=1e-9, atol=1e-12)
    assert torch.equal(gaussian.scale_tril, gaussian.scale_tril.tril())

    inferred = Laplace().infer(model, matrix, power)
    deviation = exact.covariance.diagonal().sqrt().expand_as(inferred.mean)
    torch.testing.assert_close(inferred.standard_deviation, deviation, rtol=1e-9, atol=0)
    # Its mode is found to a tenth of a deviation; at power 1 it is the encoder's mean, where the search begins.
    distance = ((inferred.mean - exact.mean) / deviation).abs().max()
    assert distance < (1e-9 if power == 1.0 else 0.2)


def test_draws_have_its_mean_and_covariance() -> None:
    model, matrix = ppca(rotated=True), grouped_histories(3, seed=1)
    n = 20_000
    draws = Laplace(draws=n).infer(model, matrix, seed=2).draws
    exact = model.exact_posterior(rows_of(matrix))
    whitened = torch.linalg.solve_triangular(exact.scale_tril, (draws - exact.mean).mT, upper=False).mT
    error = n**-0.5
    assert (whitened.mean(dim=0).abs() < 4.5 * error).all()
    for user in range(3):
        second = whitened[:, user].mT @ whitened[:, user] / n
        bound = (
            4.5 * error * (1.0 + torch.eye(20, dtype=torch.float64)).sqrt()
        )  # var of u_i u_j is 1, of u_i^2 2
        assert ((second - torch.eye(20)).abs() < bound).all()


def test_of_a_vae_its_precision_is_prior_plus_fisher_information() -> None:
    model, matrix = trained_vae(), grouped_histories(5, seed=1)
    likelihood = model.likelihood(rows_of(matrix))
    mode = Mode().infer(model, matrix, 3.0).mean
    gaussian = laplace_gaussian(PosteriorDensity(likelihood, 3.0), mode)
    precision = torch.eye(5) + 3.0 * likelihood.fisher_information(mode)
    product = gaussian.scale_tril.mT @ precision @ gaussian.scale_tril
    torch.testing.assert_close(product, torch.eye(5).expand_as(product), rtol=0, atol=1e-4)
    deviation = precision.inverse().diagonal(dim1=-2, dim2=-1).sqrt()
    inferred = Laplace().infer(model, matrix, 3.0)
    assert torch.equal(inferred.mean, mode)
    torch.testing.assert_close(inferred.standard_deviation, deviation, rtol=1e-4, atol=1e-5)
    assert "gradient_norm" in inferred.diagnostics


def test_a_power_that_drowns_the_prior_is_refused() -> None:
    """Fewer items than coordinates of z: of some directions only the prior speaks, and rounding must not hide it."""
    torch.manual_seed(1)
    model = MultVAE(3, latent_dim=8, hidden_dims=[]).eval()
    matrix = csr_array(np.ones((4, 3), dtype=np.float32))
    with pytest.raises(UserError, match=r"^likelihood_power: .* came 1e\+12, where \d of 4 users' cannot"):
        laplace_gaussian(PosteriorDensity(model.likelihood(rows_of(matrix)), 1e12), torch.randn(4, 8))


def test_without_items_it_is_the_prior() -> None:
    inferred = Laplace(draws=4000).infer(random_vae(), random_histories(4), 7.0)
    assert torch.equal(inferred.standard_deviation[0], torch.ones(4))
    assert inferred.draws is not None
    draws = inferred.draws[:, 0] - inferred.mean[0]
    assert (draws.mean(dim=0).abs() < 4.5 * 4000**-0.5).all()
    assert ((draws.var(dim=0) - 1.0).abs() < 4.5 * (2 / 4000) ** 0.5).all()
    assert inferred.mean[0].norm() < 0.5


def whitened_of(model: PPCA) -> WhitenedDensity:
    rows = rows_of(grouped_histories(4, seed=1))
    density = PosteriorDensity(model.likelihood(rows))
    return WhitenedDensity(density, laplace_gaussian(density, model.exact_posterior(rows).mean))


def check_whitened_ppca_is_standard_normal() -> None:
    density = whitened_of(ppca(rotated=True))
    points = 2.0 * latent_points(3, 4, 20)
    value, gradient = density.value_and_gradient(points)
    drop = value - density(torch.zeros_like(points))
    torch.testing.assert_close(drop, -0.5 * points.square().sum(dim=-1), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(gradient, -points, rtol=1e-8, atol=1e-8)


def test_whitened_ppca_is_standard_normal() -> None:
    check_whitened_ppca_is_standard_normal()


@pytest.mark.parametrize("draws", [(), (3,), (2, 3)])
def test_the_whitened_gradient_is_the_derivative_of_the_whitened_value(draws) -> None:
    model, matrix = random_vae((8, 6)).double(), random_histories(5)
    density = PosteriorDensity(model.likelihood(rows_of(matrix)), 2.0)
    whitened = WhitenedDensity(density, laplace_gaussian(density, latent_points(5, 4, seed=1)))
    points, direction = latent_points(*draws, 5, 4, seed=2), latent_points(*draws, 5, 4, seed=3)
    value, gradient = whitened.value_and_gradient(points)
    torch.testing.assert_close(whitened(points), value)
    torch.testing.assert_close(density(whitened.to_latent(points)), value)
    step = 1e-5
    numeric = (whitened(points + step * direction) - whitened(points - step * direction)) / (2 * step)
    torch.testing.assert_close((gradient * direction).sum(dim=-1), numeric, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", ["to_latent", "value_and_gradient"])
def test_the_check_notices_a_transposed_factor(monkeypatch, method) -> None:
    def to_latent(self, whitened):
        return self._gaussian.mean + (self._gaussian.scale_tril.mT @ whitened.unsqueeze(-1)).squeeze(-1)

    def value_and_gradient(self, whitened):
        value, gradient = self._density.value_and_gradient(self.to_latent(whitened))
        return value, (self._gaussian.scale_tril @ gradient.unsqueeze(-1)).squeeze(-1)

    monkeypatch.setattr(WhitenedDensity, method, locals()[method])
    with pytest.raises(AssertionError):
        check_whitened_ppca_is_standard_normal()
