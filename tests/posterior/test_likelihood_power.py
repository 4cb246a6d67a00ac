"""A power that each user's number of items divides: every method does for each user what it does at that number."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from made_up_histories import random_histories
from made_up_models import grouped_histories, latent_points, ppca, random_vae, trained_vae

from recsys_vae.errors import UserError
from recsys_vae.models import RecVAE, SparseRows
from recsys_vae.posterior import (
    ImportanceWeighting,
    Laplace,
    MarkovChains,
    MeanField,
    Mode,
    PosteriorDensity,
    PowerPerItem,
)
from recsys_vae.posterior.likelihood_power import parse_power, powers_of, record_power, show_power

METHODS = [
    Mode(tolerance=1e-4),
    Laplace(),
    ImportanceWeighting(draws=1000),
    MarkovChains(draws=800, chains=4, warmup=30),
]


def test_each_user_has_the_power_of_their_length() -> None:
    matrix = random_histories(6)
    matrix.data *= 2.0  # items that count twice
    powers = powers_of(PowerPerItem(200.0), SparseRows.from_csr(matrix))
    lengths = 2.0 * np.diff(matrix.indptr)
    assert lengths[0] == 0
    np.testing.assert_allclose(powers[1:].numpy(), 200.0 / lengths[1:], rtol=1e-6)
    assert torch.isfinite(powers).all()


def test_density_and_gradient_are_those_of_each_users_power() -> None:
    model, matrix = random_vae().double(), random_histories(6)
    rows, latent = SparseRows.from_csr(matrix), latent_points(3, 6, 4)
    together = PosteriorDensity(model.likelihood(rows), powers_of(PowerPerItem(7.0), rows))
    value, gradient = together.value_and_gradient(latent)
    torch.testing.assert_close(together(latent), value)
    for user in range(1, 6):
        one = SparseRows.from_csr(matrix[[user]])
        alone = PosteriorDensity(model.likelihood(one), 7.0 / float(matrix[[user]].sum()))
        expected, slope = alone.value_and_gradient(latent[:, [user]])
        torch.testing.assert_close(value[:, [user]], expected, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(gradient[:, [user]], slope, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_methods_find_the_exact_posterior_of_ppca(method) -> None:
    """Whose mean and standard deviation at each user's power are known in closed form."""
    model, matrix = ppca(), grouped_histories(6, seed=9)
    inferred = method.infer(model, matrix, PowerPerItem(30.0), seed=1)
    draws = getattr(method, "draws", 0)
    for user in range(6):
        row = SparseRows.from_csr(matrix[[user]])
        exact = model.encode(row, likelihood_power=30.0 / float(matrix[[user]].sum()))
        deviation = exact.standard_deviation[0]
        error = deviation * (5.0 / math.sqrt(0.5 * draws) if draws else 0.1)  # the mode's tolerance
        assert ((inferred.mean[user] - exact.mean[0]).abs() < error).all()
        if not isinstance(method, Mode):
            rtol = 5.0 / math.sqrt(draws) if draws else 1e-5
            torch.testing.assert_close(inferred.standard_deviation[user], deviation, rtol=rtol, atol=0.0)


def test_mean_field_refines_at_each_users_power() -> None:
    model, matrix = trained_vae(), grouped_histories(5, seed=9)
    together = MeanField(steps=20).infer(model, matrix, PowerPerItem(30.0), seed=1)
    lengths = matrix.sum(axis=1)
    alike = [
        MeanField(steps=20).infer(model, matrix, 30.0 / float(length), seed=1).mean[user]
        for user, length in enumerate(lengths)
    ]
    torch.testing.assert_close(together.mean, torch.stack(alike), rtol=1e-4, atol=1e-4)


def test_mean_field_of_ppca_wants_a_number() -> None:
    with pytest.raises(UserError, match="likelihood_power: expected a number for PPCA, came 30/items"):
        MeanField().infer(ppca(), grouped_histories(2), PowerPerItem(30.0))


@pytest.mark.parametrize("method", [*METHODS, MeanField(steps=3)], ids=lambda m: type(m).__name__)
def test_rec_vae_has_a_posterior_also_without_items(method) -> None:
    model = RecVAE(30, latent_dim=4, hidden_dims=[8, 8], seed=3).eval()
    inferred = method.infer(model, random_histories(4), PowerPerItem(200.0), seed=1)
    for values in (inferred.mean, inferred.standard_deviation, *inferred.diagnostics.values()):
        assert torch.isfinite(values).all()
    if isinstance(method, Laplace):  # the prior
        torch.testing.assert_close(inferred.standard_deviation[0], torch.ones(4))


@pytest.mark.parametrize(("text", "power"), [("200/items", PowerPerItem(200.0)), (2, 2.0), (0.5, 0.5)])
def test_powers_are_read_and_written(text, power) -> None:
    assert parse_power(text) == power
    assert show_power(power) == str(text)
    assert parse_power(record_power(power)) == power


@pytest.mark.parametrize("text", ["/items", "x/items", "-1/items", "0/items", "nan/items", "inf/items", "5"])
def test_texts_that_are_no_power(text) -> None:
    with pytest.raises(UserError, match="likelihood_power: expected a positive number, came"):
        parse_power(text)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_a_power_per_item_that_cannot_be(value) -> None:
    with pytest.raises(UserError, match="likelihood_power: expected a positive number, came"):
        PowerPerItem(value)
    with pytest.raises(UserError, match="likelihood_power: expected a positive number"):
        PosteriorDensity(
            random_vae().likelihood(SparseRows.from_csr(random_histories(1))), torch.tensor([value])
        )
