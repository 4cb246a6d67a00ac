"""Mean field against its closed form for Gaussians, and against the encoder for a VAE."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_histories import random_histories
from made_up_models import grouped_histories, latent_points, ppca, random_vae, trained_vae

from recsys_vae.models import SparseRows
from recsys_vae.posterior import MeanField, PosteriorDensity, coordinate_ascent, mean_field
from recsys_vae.posterior.mean_field import evidence_lower_bound
from recsys_vae.samplers import DiagonalGaussian


def rows_of(matrix) -> SparseRows:
    return SparseRows.from_csr(matrix)


def random_precision(latent_dim: int, seed: int) -> torch.Tensor:
    factor = latent_points(latent_dim, latent_dim, seed=seed)
    return factor @ factor.mT + 0.5 * torch.eye(latent_dim, dtype=torch.float64)


def check_bound_never_falls(precision: torch.Tensor, linear: torch.Tensor, n_sweeps: int) -> None:
    found = coordinate_ascent(precision, linear, n_sweeps=n_sweeps)
    rises = found.bounds.diff(dim=0)
    assert (rises >= -1e-12 * found.bounds.abs().max()).all()
    torch.testing.assert_close(found.variance, (1.0 / precision.diagonal()).expand_as(linear))


@settings(max_examples=30, deadline=None)
@given(latent_dim=st.integers(1, 6), seed=st.integers(0, 10_000))
def test_coordinate_ascent_on_any_gaussian(latent_dim, seed) -> None:
    precision = random_precision(latent_dim, seed)
    linear = latent_points(3, latent_dim, seed=seed + 1)
    check_bound_never_falls(precision, linear, 15)
    exact = torch.linalg.solve(precision, linear.mT).mT
    condition = float(torch.linalg.cond(precision))
    if condition < 20.0:  # an error falls by about 1 - 1 / condition a sweep
        found = coordinate_ascent(precision, linear, n_sweeps=int(20 * condition))
        torch.testing.assert_close(found.mean, exact, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_the_bound_is_the_evidence_less_the_divergence(seed) -> None:
    """Of ``exp(linear'z - z'precision z/2)``, whose integral is known, from a Gaussian whose divergence is known."""
    latent_dim = 4
    precision, linear = random_precision(latent_dim, seed), latent_points(latent_dim, seed=seed + 7)
    found = coordinate_ascent(precision, linear, n_sweeps=7)
    exact = torch.linalg.solve(precision, linear)
    evidence = 0.5 * (linear @ exact + latent_dim * np.log(2 * np.pi) - torch.logdet(precision))
    offset = found.mean - exact
    divergence = 0.5 * (
        (precision.diagonal() * found.variance).sum()
        + offset @ precision @ offset
        - latent_dim
        - torch.logdet(precision)
        - found.variance.log().sum()
    )
    torch.testing.assert_close(found.bounds[-1], evidence - divergence)


def test_no_factorised_gaussian_has_a_higher_bound() -> None:
    """Of many beside the optimum: the bound in closed form, at means and variances a little off."""
    precision, linear = random_precision(3, 0), latent_points(3, seed=1)
    found = coordinate_ascent(precision, linear, n_sweeps=500)

    def bound(mean, variance):
        quadratic = torch.einsum("...i,ij,...j->...", mean, precision, mean)
        trace = (precision.diagonal() * variance).sum(dim=-1)
        entropy = 0.5 * (variance.log() + np.log(2 * np.pi * np.e)).sum(dim=-1)
        return (linear * mean).sum(dim=-1) - 0.5 * (quadratic + trace) + entropy

    torch.testing.assert_close(found.bounds[-1], bound(found.mean, found.variance))
    means = found.mean + 1e-2 * latent_points(200, 3, seed=2)
    variances = found.variance * (1e-2 * latent_points(200, 3, seed=3)).exp()
    assert (bound(means, variances) < found.bounds[-1]).all()


@pytest.mark.parametrize("power", [1.0, 3.0])
def test_of_ppca_the_means_are_exact_and_the_variances_the_inverse_of_the_diagonal(power) -> None:
    model, matrix = ppca(rotated=True), grouped_histories(6, seed=1)
    exact = model.exact_posterior(rows_of(matrix), likelihood_power=power)
    precision = torch.linalg.inv(exact.covariance)
    inferred = MeanField(steps=500).infer(model, matrix, power)
    torch.testing.assert_close(inferred.mean, exact.mean, rtol=1e-6, atol=1e-8)
    expected = precision.diagonal().rsqrt().expand_as(inferred.mean)
    torch.testing.assert_close(inferred.standard_deviation, expected, rtol=1e-9, atol=0)
    # Too small, as the theory says: the covariance is not diagonal.
    assert (inferred.standard_deviation[0] < exact.covariance.diagonal().sqrt()).all()
    assert inferred.diagnostics["elbo_gain"].mean() > 0


def test_of_ppca_with_orthogonal_weights_it_is_the_exact_posterior() -> None:
    model, matrix = ppca(), grouped_histories(6, seed=1)
    exact = model.exact_posterior(rows_of(matrix))
    inferred = MeanField().infer(model, matrix)
    torch.testing.assert_close(inferred.mean, exact.mean, rtol=1e-8, atol=1e-10)
    expected = exact.covariance.diagonal().sqrt().expand_as(inferred.mean)
    torch.testing.assert_close(inferred.standard_deviation, expected, rtol=1e-8, atol=0)
    # Where q is the posterior, the bound is the evidence, and free of noise.
    evidence = model.log_evidence(rows_of(matrix))
    torch.testing.assert_close(inferred.diagnostics["elbo"], evidence, rtol=1e-8, atol=1e-8)


def check_stochastic_gradients_reach_the_closed_form() -> None:
    model, matrix = ppca(rotated=True), grouped_histories(8, seed=1)
    exact = model.exact_posterior(rows_of(matrix))
    precision = torch.linalg.inv(exact.covariance)
    closed = precision.diagonal().rsqrt()
    encoder = model.posterior(matrix)
    start = DiagonalGaussian(encoder.mean + 0.5 * latent_points(8, 20), 1.5 * encoder.standard_deviation)
    density = PosteriorDensity(model.likelihood(rows_of(matrix)))
    with torch.no_grad():
        found = MeanField(steps=2000, pairs=4, learning_rate=0.05)._ascend(
            density, start, torch.Generator().manual_seed(0), None
        )
    # The rate ends at 0, and the noise of the gradient with it; a hundredth of a deviation is left.
    assert ((found.mean - exact.mean) / closed).abs().max() < 0.05
    assert (found.standard_deviation / closed).log().abs().max() < 0.05


def test_stochastic_gradients_reach_the_closed_form() -> None:
    check_stochastic_gradients_reach_the_closed_form()


def test_the_check_notices_gradients_without_the_entropy(monkeypatch) -> None:
    """Its gradient at a draw is the draw's own noise over the deviation; without it q collapses to the mode."""

    class WithoutEntropy(PosteriorDensity):
        def value_and_gradient(self, latent):
            value, gradient = super().value_and_gradient(latent)
            half = len(latent) // 2
            spread = 0.5 * (latent[:half] - latent[half:])
            noise_over_deviation = spread / self.deviation.square()
            return value, gradient - torch.cat([noise_over_deviation, -noise_over_deviation])

    original = torch.addcmul

    def remember(mean, deviation, noise, **options):
        WithoutEntropy.deviation = deviation
        return original(mean, deviation, noise, **options)

    monkeypatch.setattr(torch, "addcmul", remember)
    monkeypatch.setitem(globals(), "PosteriorDensity", WithoutEntropy)
    with pytest.raises(AssertionError):
        check_stochastic_gradients_reach_the_closed_form()


def test_the_check_notices_a_sweep_of_the_wrong_sign(monkeypatch) -> None:
    """Coupling added where it is to be taken off."""
    precision, linear = random_precision(4, 3), latent_points(4, seed=4)

    def wrong(precision, linear, *, initial=None, n_sweeps=50):
        off_diagonal = precision - precision.diagonal().diag()
        found = mean_field.coordinate_ascent(precision - 2 * off_diagonal, linear, n_sweeps=n_sweeps)
        shift = torch.stack(
            [
                (linear * mean).sum() - 0.5 * mean @ precision @ mean
                for n in range(1, n_sweeps + 1)
                for mean in [
                    mean_field.coordinate_ascent(precision - 2 * off_diagonal, linear, n_sweeps=n).mean
                ]
            ]
        )
        return found._replace(bounds=shift)

    check_bound_never_falls(precision, linear, 12)
    monkeypatch.setitem(globals(), "coordinate_ascent", wrong)
    with pytest.raises(AssertionError):
        check_bound_never_falls(precision, linear, 12)


@pytest.mark.parametrize("power", [1.0, 5.0])
def test_of_a_vae_it_raises_nearly_everybodys_bound(power) -> None:
    model, matrix = trained_vae(), grouped_histories(60, seed=9)
    inferred = MeanField(pairs=2).infer(model, matrix, power, seed=1)
    start = model.posterior(matrix)
    density = PosteriorDensity(model.likelihood(rows_of(matrix)), power)
    noise = latent_points(500, 60, 5, seed=3, dtype=torch.float32)  # others than those it climbed by
    before = evidence_lower_bound(density, DiagonalGaussian(start.mean, start.standard_deviation), noise)
    after = evidence_lower_bound(density, DiagonalGaussian(inferred.mean, inferred.standard_deviation), noise)
    assert (after > before).float().mean() >= 0.95
    assert (after - before).mean() > 0.05
    # What it says of itself comes from few draws: right on average.
    told = inferred.diagnostics["elbo_gain"] - (after - before)
    assert told.mean().abs() < 4.5 * told.std() / 60**0.5
    torch.testing.assert_close(inferred.diagnostics["elbo"].mean(), after.mean(), rtol=0.01, atol=0)


def test_without_items_it_finds_the_prior() -> None:
    inferred = MeanField(steps=600, pairs=4).infer(random_vae(), random_histories(4), 5.0)
    assert inferred.mean[0].abs().max() < 0.05
    assert (inferred.standard_deviation[0] - 1.0).abs().max() < 0.05


def test_draws_come_from_the_result() -> None:
    n = 4000
    inferred = MeanField(steps=20, draws=n).infer(trained_vae(), grouped_histories(5, seed=1))
    standardised = (inferred.draws - inferred.mean) / inferred.standard_deviation
    assert (standardised.mean(dim=0).abs() < 4.5 * n**-0.5).all()
    assert ((standardised.var(dim=0) - 1.0).abs() < 4.5 * (2 / n) ** 0.5).all()


def test_progress_counts_every_step() -> None:
    seen = []
    MeanField(steps=4).infer(
        trained_vae(), grouped_histories(3), progress=lambda *report: seen.append(report)
    )
    assert seen == [("mean field", step, 4) for step in (1, 2, 3, 4)]
