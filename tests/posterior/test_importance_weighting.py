"""Weighted draws against the exact posterior of PPCA."""

from __future__ import annotations

import math

import pytest
import torch
from made_up_histories import random_histories
from made_up_models import grouped_histories, ppca, random_vae, trained_vae

from recsys_vae.models import SparseRows
from recsys_vae.posterior import ImportanceWeighting
from recsys_vae.samplers import DiagonalGaussian, FullGaussian


def exact_posterior(*, rotated: bool, power: float = 1.0):
    rows = SparseRows.from_csr(grouped_histories(5, seed=1))
    return ppca(rotated=rotated).exact_posterior(rows, likelihood_power=power)


def infer(*, rotated: bool, power: float = 1.0, **settings):
    method = ImportanceWeighting(**settings)
    return method.infer(ppca(rotated=rotated), grouped_histories(5, seed=1), power, seed=3)


@pytest.mark.parametrize(("rotated", "proposal"), [(True, "laplace"), (False, "encoder")])
def test_an_exact_proposal_gives_every_draw_the_same_weight(rotated, proposal) -> None:
    inferred = infer(rotated=rotated, proposal=proposal, draws=200)
    expected = torch.full_like(inferred.log_weights, -math.log(200))
    torch.testing.assert_close(inferred.log_weights, expected, rtol=0, atol=1e-8)
    torch.testing.assert_close(inferred.diagnostics["ess"], torch.full((5,), 200.0, dtype=torch.float64))
    assert (inferred.diagnostics["k_hat"] < 0.7).all()


def check_moments(*, rotated: bool, power: float, **settings: object) -> None:
    """Within 4.5 standard errors of the exact ones: ``sqrt(sum w^2 (f - E f)^2)``."""
    exact = exact_posterior(rotated=rotated, power=power)
    inferred = infer(rotated=rotated, power=power, draws=20_000, **settings)
    weights = inferred.log_weights.exp().unsqueeze(-1)
    torch.testing.assert_close(weights.sum(dim=0), torch.ones(5, 1, dtype=torch.float64))
    offset = inferred.draws - exact.mean
    error = (weights.square() * offset.square()).sum(dim=0).sqrt()
    assert (inferred.diagnostics["k_hat"] < 0.7).all()
    assert ((inferred.mean - exact.mean).abs() < 4.5 * error).all()
    variance = exact.covariance.diagonal()
    error = (weights.square() * (offset.square() - variance).square()).sum(dim=0).sqrt()
    assert ((inferred.standard_deviation.square() - variance).abs() < 4.5 * error).all()


@pytest.mark.parametrize(
    ("rotated", "power", "settings"),
    [
        (False, 1.0, {"proposal": "encoder", "inflation": 1.2}),
        (True, 0.7, {"proposal": "laplace", "inflation": 1.1}),
        (True, 4.0, {"proposal": "laplace", "inflation": 1.15}),
    ],
)
def test_moments_are_the_exact_ones(rotated, power, settings) -> None:
    check_moments(rotated=rotated, power=power, **settings)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (DiagonalGaussian, {"rotated": False, "proposal": "encoder", "inflation": 1.2}),
        (FullGaussian, {"rotated": True, "proposal": "laplace", "inflation": 1.1}),
    ],
)
def test_the_check_notices_weights_without_the_proposals_density(monkeypatch, kind, settings) -> None:
    monkeypatch.setattr(kind, "log_density", lambda self, position: torch.zeros_like(position[..., 0]))
    with pytest.raises(AssertionError):
        check_moments(power=1.0, **settings)


def test_of_a_vae_both_proposals_agree() -> None:
    """Each within 4.5 of the two errors put together, where both can be trusted."""
    model, matrix = trained_vae(), grouped_histories(10, seed=9)
    means, errors, trusted = [], [], torch.ones(10, dtype=torch.bool)
    for seed, proposal in enumerate(("encoder", "laplace")):
        method = ImportanceWeighting(draws=20_000, proposal=proposal, inflation=1.3)
        inferred = method.infer(model, matrix, seed=seed)
        trusted &= inferred.diagnostics["k_hat"] < 0.7
        weights = inferred.log_weights.exp().unsqueeze(-1)
        means.append(inferred.mean)
        errors.append((weights * (inferred.draws - inferred.mean)).square().sum(dim=0))
    assert trusted.sum() >= 5
    agree = (means[0] - means[1]).abs() < 4.5 * (errors[0] + errors[1]).sqrt()
    assert agree[trusted].all()


@pytest.mark.parametrize("proposal", ["encoder", "laplace"])
def test_without_items_it_is_the_prior(proposal) -> None:
    # The untrained encoder says nothing of an empty history, so that only the Laplace approximation is the prior.
    method = ImportanceWeighting(draws=4000, proposal=proposal, inflation=1.5)
    inferred = method.infer(random_vae(), random_histories(2), 5.0)
    assert not inferred.log_weights.isnan().any()
    assert not inferred.mean.isnan().any()
    if proposal == "laplace":
        weights = inferred.log_weights[:, 0].exp().unsqueeze(-1)
        error = (weights * inferred.draws[:, 0]).square().sum(dim=0).sqrt()
        assert (inferred.mean[0].abs() < 4.5 * error).all()
        assert ((inferred.standard_deviation[0] - 1.0).abs() < 0.1).all()
