"""Bounds on and estimates of ``log p(x)`` against PPCA's exact evidence."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from made_up_histories import random_histories
from made_up_models import grouped_histories, latent_points, ppca, random_vae, trained_vae
from scipy.sparse import csr_array

from recsys_vae.errors import UserError
from recsys_vae.inference import simulate_histories
from recsys_vae.models import EASE, PPCA, MultDAE, SparseRows
from recsys_vae.posterior.density import PosteriorDensity, encoder_gaussian
from recsys_vae.posterior.log_likelihood import (
    _target_and_base,
    _Whitened,
    annealed_log_likelihood,
    importance_bounds,
    reversed_log_likelihood,
)
from recsys_vae.samplers import (
    DiagonalGaussian,
    annealed_importance,
    annealed_importance_reversed,
    importance,
)


def histories(n_users: int = 12) -> csr_array:
    return grouped_histories(n_users, seed=1)


def evidence(model: PPCA, matrix: csr_array) -> torch.Tensor:
    return model.log_evidence(SparseRows.from_csr(matrix))


def check_exact_proposals_give_the_evidence() -> None:
    """With orthogonal weights the encoder is the posterior; the Laplace approximation is, whatever the weights."""
    matrix = histories()
    for rotated, proposal in ((False, "encoder"), (False, "laplace"), (True, "laplace")):
        model = ppca(rotated=rotated)
        bounds = importance_bounds(model, matrix, sizes=(1, 7, 50), proposal=proposal)
        assert list(bounds) == [1, 7, 50]
        for bound in bounds.values():
            torch.testing.assert_close(bound, evidence(model, matrix), rtol=0, atol=1e-6)


def test_an_exact_proposal_gives_the_evidence() -> None:
    check_exact_proposals_give_the_evidence()


def test_an_exact_proposal_gives_the_evidence_in_float32() -> None:
    model = PPCA(50, 20).fit(grouped_histories())
    for proposal in ("encoder", "laplace"):
        for bound in importance_bounds(model, histories(), sizes=(1, 20), proposal=proposal).values():
            torch.testing.assert_close(bound, evidence(model, histories()), rtol=1e-6, atol=1e-4)


def test_the_check_notices_weights_without_the_proposals_density(monkeypatch) -> None:
    monkeypatch.setattr(
        DiagonalGaussian, "log_density", lambda self, position: torch.zeros_like(position[..., 0])
    )
    with pytest.raises(AssertionError):
        check_exact_proposals_give_the_evidence()


def test_the_check_notices_a_missing_volume(monkeypatch) -> None:
    monkeypatch.setattr(_Whitened, "__call__", _Whitened.__mro__[1].__call__)
    with pytest.raises(AssertionError):
        check_exact_proposals_give_the_evidence()


def test_bounds_are_below_the_evidence_and_rise() -> None:
    """The encoder of a rotated PPCA has no correlations: its bound is lower by a divergence that is known."""
    model, matrix = ppca(rotated=True), histories(40)
    bounds = importance_bounds(model, matrix, sizes=(1, 10, 100, 1000), seed=2)
    means = [float(bound.mean()) for bound in bounds.values()]
    exact = evidence(model, matrix)
    assert means == sorted(means)
    assert means[-1] < float(exact.mean())
    covariance = model.exact_posterior(SparseRows.from_csr(matrix)).covariance
    precision = torch.linalg.inv(covariance)
    divergence = 0.5 * (
        (precision.diagonal() * covariance.diagonal()).sum()
        - 20
        - torch.logdet(precision)
        - covariance.diagonal().log().sum()
    )
    gap = exact - bounds[1]  # of each user from 1000 draws
    assert (gap.mean() - divergence).abs() < 4.5 * gap.std() / 40**0.5


def test_bounds_are_means_over_groups_of_the_same_draws() -> None:
    model, matrix = trained_vae(), histories(5)
    rows = SparseRows.from_csr(matrix)
    bounds = importance_bounds(model, matrix, sizes=(1, 4, 10), seed=3)
    density = PosteriorDensity(model.likelihood(rows))
    weighted = importance(density, encoder_gaussian(model, rows), 10, seed=3)
    raw = weighted.raw_log_weights.double().numpy()
    np.testing.assert_allclose(bounds[1], raw.mean(axis=0), rtol=1e-5)
    groups = np.log(np.exp(raw[:8]).reshape(2, 4, 5).mean(axis=1)).mean(axis=0)
    np.testing.assert_allclose(bounds[4], groups, rtol=1e-5)
    np.testing.assert_allclose(bounds[10], np.log(np.exp(raw).mean(axis=0)), rtol=1e-5)


def test_few_draws_are_enough() -> None:
    model, matrix = trained_vae(), histories(3)
    assert importance_bounds(model, matrix, sizes=(1,))[1].shape == (3,)
    assert set(importance_bounds(model, matrix, sizes=(2, 3))) == {2, 3}
    with pytest.raises(UserError, match="sizes: expected a whole number of at least 1, came 0"):
        importance_bounds(model, matrix, sizes=(0, 10))


def check_annealing(proposal: str, n_temperatures: int, n_chains: int) -> float:
    """Both ways within 4.5 standard errors, from a Gaussian that is not the posterior; returns the larger error.

    From the encoder's, which has no correlations, or in coordinates where the posterior is standard normal, from one
    that is too wide.
    """
    model, matrix = ppca(rotated=True), histories()
    target, base = _target_and_base(model, matrix, proposal)
    posterior = model.exact_posterior(SparseRows.from_csr(matrix))
    draws = posterior.mean + latent_points(n_chains, 12, 20, seed=8) @ posterior.scale_tril.mT
    if isinstance(target, _Whitened):
        draws = target.to_whitened(draws)
        base = DiagonalGaussian(base.mean, 1.2 * base.standard_deviation)
    forward = annealed_importance(target, base, n_temperatures, n_chains, seed=1)
    backward = annealed_importance_reversed(target, base, draws, n_temperatures, seed=2)
    exact = evidence(model, matrix)
    errors = []
    for found in (forward, backward):
        error = (found.log_normaliser - exact).mean().abs()
        assert error < 4.5 * found.log_normaliser_error.square().sum().sqrt() / 12
        errors.append(float(error))
    # A single path each way: below and above, on average over paths and users.
    assert forward.log_weights.mean() < exact.mean() < -backward.log_weights.mean()
    return max(errors)


def test_annealing_finds_the_evidence_from_both_sides() -> None:
    assert check_annealing("laplace", 60, 32) < 0.1


@pytest.mark.slow
def test_annealing_finds_the_evidence_to_a_hundredth_of_a_nat() -> None:
    assert check_annealing("encoder", 1000, 128) < 0.01


def test_the_check_notices_a_prior_left_out(monkeypatch) -> None:
    monkeypatch.setattr(
        "recsys_vae.posterior.density.standard_normal_log_density",
        lambda latent: -0.5 * latent.square().sum(dim=-1),
    )
    with pytest.raises(AssertionError):
        check_annealing("laplace", 60, 32)


@pytest.mark.parametrize("rotated", [False, True])
def test_annealing_from_the_laplace_approximation_of_ppca_is_exact(rotated) -> None:
    model, matrix = ppca(rotated=rotated), histories()
    exact = evidence(model, matrix)
    forward = annealed_log_likelihood(model, matrix, n_temperatures=10, n_chains=2)
    torch.testing.assert_close(forward, exact, rtol=0, atol=1e-6)
    posterior = model.exact_posterior(SparseRows.from_csr(matrix))
    draws = posterior.mean + latent_points(2, 12, 20) @ posterior.scale_tril.mT
    backward = reversed_log_likelihood(model, matrix, draws, n_temperatures=10)
    torch.testing.assert_close(backward, exact, rtol=0, atol=1e-6)


def test_whitened_coordinates_go_there_and_back() -> None:
    target, _ = _target_and_base(trained_vae(), histories(4), "laplace")
    points = latent_points(3, 4, 5, dtype=torch.float32)
    torch.testing.assert_close(target.to_latent(target.to_whitened(points)), points, rtol=1e-4, atol=1e-4)


def test_the_sandwich_of_a_vae_is_narrow_and_holds_the_bounds() -> None:
    """Users drawn from the model, whose tastes are exact draws from their posteriors."""
    model = trained_vae()
    lengths = np.diff(grouped_histories(24, seed=9).indptr)
    tastes, matrix = simulate_histories(model, lengths, seed=5)
    lower = annealed_log_likelihood(model, matrix, n_temperatures=40, n_chains=8)
    upper = reversed_log_likelihood(model, matrix, tastes.unsqueeze(0), n_temperatures=40)
    width = upper - lower
    assert -4.5 * width.std() / 24**0.5 < width.mean() < 0.3
    many = importance_bounds(model, matrix, sizes=(1, 1000), proposal="laplace")
    assert (many[1000] - lower).mean().abs() < 0.1
    assert (many[1] < lower + 0.5).all()


def test_a_history_without_items_has_probability_one() -> None:
    model, matrix = random_vae(), random_histories(2)
    for proposal in ("encoder", "laplace"):
        bounds = importance_bounds(model, matrix, sizes=(1, 4000), proposal=proposal)
        assert bounds[1][0] <= 1e-4
    assert abs(float(bounds[4000][0])) < 0.02
    assert abs(float(annealed_log_likelihood(model, matrix, n_temperatures=20)[0])) < 0.02


def test_the_coefficient_is_left_out_as_in_training() -> None:
    """Of a model that does not care for z: the bound is the likelihood itself."""
    model = random_vae(())
    with torch.no_grad():
        model.output.weight.zero_()
    matrix = random_histories(4)
    expected = matrix @ torch.log_softmax(model.output.bias, dim=-1).detach().numpy()
    bound = importance_bounds(model, matrix, sizes=(1, 50), proposal="laplace")[50]
    np.testing.assert_allclose(bound.numpy(), expected, rtol=0, atol=0.06)


def test_same_seed_same_numbers() -> None:
    model, matrix = trained_vae(), histories(3)
    for function, settings in (
        (importance_bounds, {"sizes": (20,)}),
        (annealed_log_likelihood, {"n_temperatures": 5, "n_chains": 2}),
    ):
        first, second, other = (function(model, matrix, seed=seed, **settings) for seed in (1, 1, 2))
        if isinstance(first, dict):
            first, second, other = first[20], second[20], other[20]
        assert torch.equal(first, second)
        assert not torch.equal(first, other)
        assert math.isfinite(float(first.sum()))


@pytest.mark.parametrize("kind", [EASE, MultDAE])
def test_a_model_without_a_posterior(kind) -> None:
    for function in (importance_bounds, annealed_log_likelihood):
        with pytest.raises(UserError, match="posterior: expected a model with a posterior"):
            function(kind(50), histories(3))
