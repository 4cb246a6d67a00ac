"""What every inference method targets: prior times a power of the likelihood."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from made_up_histories import random_histories
from made_up_models import grouped_histories, latent_points, ppca, random_vae
from scipy.stats import multivariate_normal

from recsys_vae.errors import UserError
from recsys_vae.models import EASE, ItemKNN, MultDAE, Popularity, SparseRows
from recsys_vae.posterior import (
    Encoder,
    ImportanceWeighting,
    Laplace,
    MarkovChains,
    MaximumLikelihood,
    MeanField,
    Mode,
    PosteriorDensity,
)
from recsys_vae.posterior.density import standard_normal_log_density

METHODS = [
    Encoder(),
    Mode(),
    MaximumLikelihood(),
    Laplace(),
    MeanField(steps=2),
    ImportanceWeighting(draws=20),
    MarkovChains(draws=16, warmup=5),
]


def rows_of(matrix) -> SparseRows:
    return SparseRows.from_csr(matrix)


def test_the_prior_is_the_standard_normal_density() -> None:
    latent = latent_points(3, 4)
    expected = multivariate_normal(np.zeros(4)).logpdf(latent.numpy())
    np.testing.assert_allclose(standard_normal_log_density(latent).numpy(), expected, rtol=1e-13)


@pytest.mark.parametrize("power", [0.25, 1.0, 7.0])
@pytest.mark.parametrize("with_prior", [True, False])
def test_value_and_gradient(power, with_prior) -> None:
    matrix = random_histories(6)
    model = random_vae((8, 6)).double()
    density = PosteriorDensity(model.likelihood(rows_of(matrix)), power, with_prior=with_prior)
    latent = latent_points(2, 6, 4).requires_grad_()
    counts = torch.from_numpy(matrix.toarray()).double()
    expected = power * (counts * torch.log_softmax(model.decode(latent), dim=-1)).sum(dim=-1)
    if with_prior:
        expected = expected - 0.5 * latent.square().sum(dim=-1) - 2.0 * math.log(2.0 * math.pi)
    (slope,) = torch.autograd.grad(expected.sum(), latent)
    value, gradient = density.value_and_gradient(latent.detach())
    torch.testing.assert_close(value, expected.detach(), rtol=1e-12, atol=1e-11)
    torch.testing.assert_close(gradient, slope, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(density(latent.detach()), value, rtol=1e-12, atol=1e-11)


def test_of_ppca_it_is_the_joint_density() -> None:
    """``log p(z, x)`` less the posterior's log-density is the evidence, wherever z is."""
    model, matrix = ppca(rotated=True), grouped_histories(5, seed=1)
    rows = rows_of(matrix)
    density = PosteriorDensity(model.likelihood(rows))
    mean, covariance, _ = model.exact_posterior(rows)
    evidence = multivariate_normal(
        model.mean.numpy(),
        (model.weight @ model.weight.mT + model.noise_variance * torch.eye(50, dtype=torch.float64)).numpy(),
    ).logpdf(matrix.toarray().astype(np.float64))
    latent = latent_points(5, 20)
    posterior = [
        multivariate_normal(m, covariance.numpy()).logpdf(z)
        for m, z in zip(mean.numpy(), latent.numpy(), strict=True)
    ]
    np.testing.assert_allclose(density(latent).numpy() - posterior, evidence, rtol=1e-9)


@pytest.mark.parametrize("power", [0.5, 4.0])  # powers of two, so that rounding is the same
def test_a_power_counts_every_item_that_often(power) -> None:
    """For a multinomial; the encoder reads histories of unit length, so all methods begin alike too."""
    matrix = random_histories(6)
    repeated = power * matrix
    model = random_vae().double()
    latent = latent_points(6, 4)
    once = PosteriorDensity(model.likelihood(rows_of(matrix)), power).value_and_gradient(latent)
    often = PosteriorDensity(model.likelihood(rows_of(repeated)), 1.0).value_and_gradient(latent)
    torch.testing.assert_close(once, often)

    model = random_vae()
    for method in METHODS:
        first = method.infer(model, matrix, power, seed=1)
        second = method.infer(model, repeated, 1.0, seed=1)
        if isinstance(method, MaximumLikelihood):  # which does without the power
            assert torch.equal(first.mean, method.infer(model, matrix, 1.0).mean)
            continue
        torch.testing.assert_close(first.mean, second.mean)
        torch.testing.assert_close(first.standard_deviation, second.standard_deviation)


@pytest.mark.parametrize("power", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("method", METHODS[1:], ids=lambda method: type(method).__name__)
def test_a_power_that_cannot_be(power, method) -> None:
    if isinstance(method, MaximumLikelihood):
        pytest.skip("has no use for it")
    with pytest.raises(UserError, match="likelihood_power: expected a positive number, came"):
        method.infer(random_vae(), random_histories(3), power)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
@pytest.mark.parametrize("kind", [EASE, ItemKNN, Popularity, MultDAE])
def test_a_model_without_a_posterior(kind, method) -> None:
    with pytest.raises(UserError, match=f"posterior: expected a model with a posterior.*{kind.__name__}"):
        method.infer(kind(30), random_histories(3))


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_histories_over_other_items(method) -> None:
    with pytest.raises(UserError, match="histories: expected a matrix with 30 columns"):
        method.infer(random_vae(), random_histories(3, n_items=31))


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_without_items_the_posterior_is_the_prior_and_nothing_is_nan(method) -> None:
    """The first history has no items; maximum likelihood has nothing to go by and stays where it begins."""
    inferred = method.infer(random_vae(), random_histories(4), 5.0, seed=1)
    for values in (inferred.mean, inferred.standard_deviation, *inferred.diagnostics.values()):
        assert not values.isnan().any()
    if isinstance(method, Mode) and not isinstance(method, MaximumLikelihood):
        assert inferred.mean[0].norm() < 0.1 * 5
    if isinstance(method, Laplace):
        assert torch.equal(inferred.standard_deviation[0], torch.ones(4))


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_same_seed_same_numbers(method) -> None:
    model, matrix = random_vae(), random_histories(4)
    first, second, other = (method.infer(model, matrix, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.mean, second.mean)
    assert torch.equal(first.standard_deviation, second.standard_deviation)
    assert (first.draws is None) == (second.draws is None)
    if first.draws is not None:
        assert torch.equal(first.draws, second.draws)
        assert not torch.equal(first.draws, other.draws)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Encoder(draws=-1), "posterior.draws: expected a whole number of at least 0, came -1"),
        (lambda: Laplace(batch_size=0), "posterior.batch_size: expected a whole number of at least 1"),
        (lambda: Mode(tolerance=0.0), "posterior.tolerance: expected a positive number, came 0.0"),
        (lambda: Mode(tolerance=math.nan), "posterior.tolerance: expected a positive number, came nan"),
        (lambda: Mode(max_evaluations=0), "posterior.max_evaluations: expected a whole number"),
        (lambda: MaximumLikelihood(max_norm=-1.0), "posterior.max_norm: expected a positive number"),
        (lambda: MeanField(steps=0), "posterior.steps: expected a whole number of at least 1, came 0"),
        (lambda: MeanField(pairs=True), "posterior.pairs: expected a whole number of at least 1, came True"),
        (lambda: MeanField(learning_rate=math.inf), "posterior.learning_rate: expected a positive number"),
        (lambda: ImportanceWeighting(draws=3), "posterior.draws: expected a whole number of at least 4"),
        (lambda: ImportanceWeighting(inflation=0.0), "posterior.inflation: expected a positive number"),
        (lambda: ImportanceWeighting(proposal="prior"), "posterior.proposal: expected encoder or laplace"),
        (lambda: MarkovChains(draws=15), "posterior.draws: expected a whole number of at least 16, came 15"),
        (lambda: MarkovChains(chains=0), "posterior.chains: expected a whole number of at least 1, came 0"),
        (lambda: MarkovChains(thin=0), "posterior.thin: expected a whole number of at least 1, came 0"),
        (lambda: MarkovChains(warmup=-1), "posterior.warmup: expected a whole number of at least 0"),
    ],
)
def test_settings_out_of_range(make, said) -> None:
    with pytest.raises(UserError, match=f"^{said}"):
        make()
