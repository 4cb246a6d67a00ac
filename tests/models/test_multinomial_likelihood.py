"""The likelihood that inference evaluates, against automatic differentiation of the decoder in float64."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from made_up_histories import random_histories
from made_up_models import latent_points, random_vae
from scipy.sparse import csr_array

from recsys_vae.models import MultVAE, SparseRows, multinomial_likelihood
from recsys_vae.models.multinomial_likelihood import MultinomialLikelihood

HIDDEN_DIMS = [(), (8,), (8, 6)]


def weighted_histories(n_users: int = 7, n_items: int = 30) -> csr_array:
    """The first user has no items."""
    matrix = random_histories(n_users, n_items, density=0.3)
    matrix.data = np.random.default_rng(0).uniform(0.2, 3.0, len(matrix.data)).astype(np.float32)
    return matrix


def reference(model: MultVAE, latent: torch.Tensor, matrix: csr_array) -> torch.Tensor:
    """``sum_i x_i log softmax(f(z))_i``, all of it dense."""
    counts = torch.from_numpy(matrix.toarray()).to(latent.dtype)
    return (counts * torch.log_softmax(model.decode(latent), dim=-1)).sum(dim=-1)


@pytest.mark.parametrize("hidden_dims", HIDDEN_DIMS)
@pytest.mark.parametrize("draws", [(), (3,), (2, 3)])
def test_value_and_gradient_equal_automatic_differentiation(hidden_dims, draws) -> None:
    matrix = weighted_histories()
    model = random_vae(hidden_dims).double()
    latent = latent_points(*draws, 7, 4).requires_grad_()
    expected = reference(model, latent, matrix)
    (slope,) = torch.autograd.grad(expected.sum(), latent)
    likelihood = model.likelihood(SparseRows.from_csr(matrix))
    value, gradient = likelihood.value_and_gradient(latent.detach())
    torch.testing.assert_close(value, expected.detach(), rtol=1e-12, atol=1e-11)
    torch.testing.assert_close(gradient, slope, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(likelihood(latent.detach()), value, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("hidden_dims", HIDDEN_DIMS)
def test_it_is_the_likelihood_of_training_in_float32(hidden_dims) -> None:
    rows = SparseRows.from_csr(weighted_histories())
    model = random_vae(hidden_dims)
    latent = latent_points(7, 4, dtype=torch.float32).requires_grad_()
    expected = model.log_likelihood(latent, rows)
    (slope,) = torch.autograd.grad(expected.sum(), latent)
    value, gradient = model.likelihood(rows).value_and_gradient(latent.detach())
    assert value.dtype == gradient.dtype == torch.float32
    torch.testing.assert_close(value, expected.detach(), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(gradient, slope, rtol=1e-4, atol=1e-3)


def test_a_user_without_items_says_nothing() -> None:
    likelihood = random_vae().likelihood(SparseRows.from_csr(csr_array((2, 30), dtype=np.float32)))
    latent = 5.0 * latent_points(3, 2, 4, dtype=torch.float32)
    value, gradient = likelihood.value_and_gradient(latent)
    assert (value == 0).all()
    assert (gradient == 0).all()
    assert (likelihood(latent) == 0).all()
    assert (likelihood.fisher_information(latent[0]) == 0).all()


def test_blocks_of_rows_make_no_difference(monkeypatch) -> None:
    model = random_vae((8, 6)).double()
    rows = SparseRows.from_csr(weighted_histories())
    latent = latent_points(11, 7, 4)
    whole = model.likelihood(rows).value_and_gradient(latent)
    for size in (1, 5, 7, 64, 77):
        monkeypatch.setattr(multinomial_likelihood, "_ROWS", size)
        parts = model.likelihood(rows).value_and_gradient(latent)
        torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-11)


def test_more_rows_than_one_block_holds() -> None:
    matrix = weighted_histories()
    model = random_vae().double()
    n_draws = multinomial_likelihood._ROWS // 7 + 20
    latent = latent_points(n_draws, 7, 4)
    with torch.no_grad():
        expected = reference(model, latent, matrix)
    value, _ = model.likelihood(SparseRows.from_csr(matrix)).value_and_gradient(latent)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-11)


def test_tastes_far_out_overflow_nothing() -> None:
    matrix = weighted_histories()
    model = random_vae(())
    likelihood = model.likelihood(SparseRows.from_csr(matrix))
    latent = 1000.0 * latent_points(7, 4, dtype=torch.float32)
    value, gradient = likelihood.value_and_gradient(latent)
    with torch.no_grad():
        expected = reference(model.double(), latent.double(), matrix)
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-2)
    torch.testing.assert_close(likelihood(latent), value, rtol=1e-5, atol=1e-2)
    assert gradient.isfinite().all()


def check_fisher_information(hidden_dims: tuple[int, ...]) -> None:
    """Minus the Hessian of each item's log-probability, summed over all items by their probabilities."""
    matrix = weighted_histories(n_users=3, n_items=10)
    model = random_vae(hidden_dims, n_items=10).double()
    latent = latent_points(3, 4)
    information = model.likelihood(SparseRows.from_csr(matrix)).fisher_information(latent)
    lengths = torch.from_numpy(matrix.astype(np.float64).sum(axis=1))
    for user, (point, length) in enumerate(zip(latent, lengths, strict=True)):
        probabilities = torch.softmax(model.decode(point), dim=-1).detach()
        expected = torch.zeros(4, 4, dtype=torch.float64)
        for item in range(10):
            hessian = torch.autograd.functional.hessian(
                lambda z, item=item: torch.log_softmax(model.decode(z), dim=-1)[item], point
            )
            expected -= length * probabilities[item] * hessian
        torch.testing.assert_close(information[user], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("hidden_dims", HIDDEN_DIMS)
def test_fisher_information_is_minus_the_expected_hessian(hidden_dims) -> None:
    check_fisher_information(hidden_dims)


def test_fisher_information_is_the_variance_of_the_score_over_all_histories() -> None:
    """Of two items out of three: nine ordered histories."""
    model = random_vae((3,), n_items=3, latent_dim=2).double()
    point = latent_points(1, 2)
    probabilities = torch.softmax(model.decode(point)[0], dim=-1).detach()
    expected = torch.zeros(2, 2, dtype=torch.float64)
    for pair in itertools.product(range(3), repeat=2):
        history = csr_array(np.bincount(pair, minlength=3).astype(np.float32)[None, :])
        _, score = model.likelihood(SparseRows.from_csr(history)).value_and_gradient(point)
        expected += probabilities[pair[0]] * probabilities[pair[1]] * torch.outer(score[0], score[0])
    information = model.likelihood(SparseRows.from_csr(history)).fisher_information(point)[0]
    torch.testing.assert_close(information, expected, rtol=1e-9, atol=1e-9)


def test_the_check_notices_a_missing_outer_product(monkeypatch) -> None:
    def without_outer_product(self, latent):
        (weight, bias), output = self._layers[0], self._weight
        hidden = torch.tanh(latent @ weight.t() + bias)
        probabilities = torch.softmax(hidden @ output.t() + self._bias, dim=-1)
        jacobian = torch.einsum("ih,uh,hl->uil", output, 1.0 - hidden.square(), weight)
        return torch.einsum("u,ui,uil,uim->ulm", self._lengths, probabilities, jacobian, jacobian)

    monkeypatch.setattr(MultinomialLikelihood, "fisher_information", without_outer_product)
    with pytest.raises(AssertionError):
        check_fisher_information((8,))
