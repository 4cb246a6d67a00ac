"""Weighted matrix factorisation against dense float64 linear algebra and against scipy's densities."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from contract import ModelContract
from made_up_histories import random_histories
from scipy.sparse import csr_array
from scipy.stats import multivariate_normal, norm

from recsys_vae.errors import UserError
from recsys_vae.models import WMF, SparseRows, progress, weighted_factorisation
from recsys_vae.posterior.density import PosteriorDensity, latent_model


class TestWMF(ModelContract):
    starts_at_random = True

    def fresh(self, n_items):
        return WMF(n_items, latent_dim=3, l2=0.02)

    def fitted(self, matrix):
        return WMF(matrix.shape[1], latent_dim=3, l2=0.02).fit(matrix)


def weighted_histories(n_users: int = 14, n_items: int = 9, seed: int = 0) -> csr_array:
    """Interactions of several weights; the first user has none."""
    matrix = random_histories(n_users, n_items, density=0.4, seed=seed)
    matrix.data = np.random.default_rng(seed).choice([0.5, 1.0, 3.0], len(matrix.data)).astype(np.float32)
    return matrix


def made_up_model(frequency_exponent: float = 0.7, **settings) -> WMF:
    """In float64, with factors that no fit would give."""
    model = WMF(
        9, 3, l2=0.3, unobserved_weight=0.2, frequency_exponent=frequency_exponent, **settings
    ).double()
    model.item_factors.copy_(
        torch.randn(9, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    )
    model.noise_variance.fill_(0.37)
    return model


def dense_user(model: WMF, row: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Mean and covariance of x, from all pairs with their confidences, and the regularisation."""
    y = model.item_factors.double().numpy()
    confidence = model.unobserved_weight + row
    penalty = model.l2 * confidence.sum() ** model.frequency_exponent
    precision = y.T @ np.diag(confidence) @ y + penalty * np.eye(y.shape[1])
    mean = np.linalg.solve(precision, y.T @ np.diag(confidence) @ (row > 0))
    return mean, float(model.noise_variance) * np.linalg.inv(precision), penalty


def dense_objective(model: WMF, x: np.ndarray, y: np.ndarray, r: np.ndarray) -> float:
    """Equation 3 of Hu et al. over all pairs, with the regularisation of Rendle et al."""
    confidence = model.unobserved_weight + r
    users, items = (
        model.l2 * confidence.sum(axis=axis) ** model.frequency_exponent @ (f**2).sum(axis=1)
        for axis, f in ((1, x), (0, y))
    )
    return float((confidence * ((r > 0) - x @ y.T) ** 2).sum() + users + items)


@pytest.mark.parametrize("frequency_exponent", [0.0, 1.0, 0.7])
def test_fold_in_is_the_dense_solve(frequency_exponent, monkeypatch) -> None:
    monkeypatch.setattr(weighted_factorisation, "_BLOCK_ENTRIES", 12)  # blocks of two or three users
    model, matrix = made_up_model(frequency_exponent), weighted_histories()
    posterior = model.exact_posterior(SparseRows.from_csr(matrix))
    found = model.user_vectors(matrix).numpy()
    for user, row in enumerate(matrix.toarray().astype(np.float64)):
        mean, covariance, penalty = dense_user(model, row)
        np.testing.assert_allclose(found[user], mean, rtol=0, atol=1e-8)
        scale = np.sqrt(0.37 / penalty)  # of z
        np.testing.assert_allclose(posterior.mean[user] * scale, mean, rtol=0, atol=1e-8)
        np.testing.assert_allclose(posterior.covariance[user] * scale**2, covariance, rtol=0, atol=1e-8)
        lower = posterior.scale_tril[user]
        np.testing.assert_allclose(lower @ lower.T, posterior.covariance[user], rtol=0, atol=1e-10)
        assert (lower.triu(1) == 0).all()
    np.testing.assert_allclose(model.score(matrix), found @ model.item_factors.numpy().T, atol=1e-10)
    marginals = model.posterior(matrix)
    np.testing.assert_allclose(
        marginals.standard_deviation**2, posterior.covariance.diagonal(dim1=-2, dim2=-1), rtol=1e-9
    )
    assert (marginals.standard_deviation[0] < 1.0).all()  # an empty history says something too
    np.testing.assert_allclose(marginals.mean[0], 0.0, atol=1e-12)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_posterior_is_prior_times_likelihood_to_its_power(power) -> None:
    model, matrix = made_up_model(), weighted_histories()
    rows = SparseRows.from_csr(matrix)
    posterior = model.exact_posterior(rows, likelihood_power=power)
    points = torch.randn(20, 14, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for user, row in enumerate(matrix.toarray().astype(np.float64)):
        _, _, penalty = dense_user(model, row)
        x = points[:, user].numpy() * np.sqrt(0.37 / penalty)
        deviation = np.sqrt(0.37 / (model.unobserved_weight + row))
        log_likelihood = norm(x @ model.item_factors.numpy().T, deviation).logpdf(row > 0).sum(axis=1)
        np.testing.assert_allclose(model.likelihood(rows)(points)[:, user], log_likelihood, rtol=1e-9)
        log_joint = norm.logpdf(points[:, user]).sum(axis=1) + power * log_likelihood
        law = multivariate_normal(posterior.mean[user], posterior.covariance[user])
        difference = log_joint - law.logpdf(points[:, user])
        np.testing.assert_allclose(difference, difference[0], rtol=0, atol=1e-8)


def test_likelihood_has_its_gradient() -> None:
    model, matrix = made_up_model(), weighted_histories()
    assert latent_model(model) is model
    density = PosteriorDensity(model.likelihood(SparseRows.from_csr(matrix)))
    points = torch.randn(2, 14, 3, dtype=torch.float64, requires_grad=True)
    value, gradient = density.value_and_gradient(points)
    torch.testing.assert_close(value, density(points))
    torch.testing.assert_close(gradient, torch.autograd.grad(density(points).sum(), points)[0])


@pytest.mark.parametrize(("n_steps", "frequency_exponent"), [(1, 1.0), (3, 0.0), (3, 1.0)])
def test_the_objective_is_equation_3_and_falls_with_every_alternation(n_steps, frequency_exponent) -> None:
    matrix = weighted_histories(40, 25, seed=3)
    model = WMF(
        25, 4, l2=0.1, frequency_exponent=frequency_exponent, n_steps=n_steps, n_iterations=30
    ).double()
    objectives = []
    for state in model.alternations(matrix):
        objectives.append(state.objective())
        dense = dense_objective(
            model, state.users.numpy(), state.items.numpy(), matrix.toarray().astype(np.float64)
        )
        assert objectives[-1] == pytest.approx(dense, rel=1e-10)
    assert (np.diff(objectives) < 1e-12).all()
    assert objectives[-1] < 0.8 * objectives[0]


def test_alternation_ends_where_both_sides_are_solved() -> None:
    matrix = weighted_histories(40, 25, seed=3)
    model = WMF(25, 4, l2=0.1, frequency_exponent=0.5, n_iterations=300).double()
    for state in model.alternations(matrix):  # noqa: B007
        pass
    r = matrix.toarray().astype(np.float64)
    for rows, columns, values in ((state.users, state.items, r), (state.items, state.users, r.T)):
        model.item_factors = columns
        solved = np.stack([dense_user(model, row)[0] for row in values])
        np.testing.assert_allclose(rows, solved, atol=1e-6)


def test_with_the_prior_going_to_nothing_it_is_maximum_likelihood() -> None:
    model, matrix = made_up_model(), weighted_histories()
    model.l2 = 1e-10
    root = np.sqrt(model.unobserved_weight + matrix.toarray().astype(np.float64))
    for user in range(14):
        weighted = root[user][:, None] * model.item_factors.numpy()
        expected, *_ = np.linalg.lstsq(weighted, root[user] * (matrix.toarray()[user] > 0), rcond=None)
        np.testing.assert_allclose(model.user_vectors(matrix)[user], expected, atol=1e-7)


def test_the_noise_variance_is_the_weighted_mean_square() -> None:
    matrix = weighted_histories(40, 25, seed=3)
    model = WMF(25, 4, l2=0.1).double().fit(matrix)
    *_, state = model.alternations(matrix)
    r = matrix.toarray().astype(np.float64)
    errors = (0.25 + r) * ((r > 0) - state.users.numpy() @ state.items.numpy().T) ** 2
    assert float(model.noise_variance) == pytest.approx(errors.mean(), rel=1e-10)


@pytest.mark.parametrize("n_groups", [1, 2])
def test_a_fit_that_is_as_good_as_exact_leaves_noise_and_a_posterior(n_groups) -> None:
    groups = csr_array(np.kron(np.eye(n_groups), np.ones((15, 5))).astype(np.float32))
    model = WMF(5 * n_groups, n_groups, l2=1e-4, n_iterations=30).fit(groups)
    assert 0.0 < float(model.noise_variance) < 1e-6
    posterior = model.posterior(groups)
    assert posterior.mean.isfinite().all()
    assert (posterior.standard_deviation > 0.0).all()


def test_factors_that_run_away_are_no_model() -> None:
    # Two dimensions for a matrix of rank 1, and next to nothing that holds the second.
    with pytest.raises(UserError, match=r"^model\.l2: expected enough for finite factors, came 1e-08"):
        WMF(10, 2, l2=1e-8, n_iterations=30).fit(csr_array(np.ones((30, 10), np.float32)))


@pytest.mark.parametrize("value", [np.inf, np.nan, 0.0, -1.0])
def test_interactions_are_positive_and_finite(value) -> None:
    matrix = weighted_histories(40, 25, seed=3)
    matrix.data[5] = value
    with pytest.raises(UserError, match="expected positive, finite interactions"):
        WMF(25, 4).fit(matrix)


def test_order_of_users_and_items_does_not_matter_to_a_step() -> None:
    matrix = weighted_histories(40, 25, seed=3)
    generator = torch.Generator().manual_seed(0)
    users, items = (torch.randn(n, 4, generator=generator, dtype=torch.float64) for n in (40, 25))
    order = torch.randperm(25, generator=generator)
    model = WMF(25, 4).double()
    steps = []
    for shuffled, factors in ((matrix, items), (csr_array(matrix.toarray()[:, order.numpy()]), items[order])):
        side = weighted_factorisation.Side.of(shuffled, torch.float64)
        steps.append(model.problem(side).descend(users, factors, side.pattern(), 3))
    torch.testing.assert_close(*steps, rtol=1e-9, atol=1e-12)


def test_the_same_seed_gives_the_same_factors() -> None:
    matrix = weighted_histories(40, 25)
    one, again, other = (WMF(25, 4, seed=seed).fit(matrix).item_factors for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        *(
            ({name: value}, name)
            for name in ("l2", "unobserved_weight")
            for value in (0.0, -1.0, float("nan"))
        ),
        ({"frequency_exponent": -0.1}, "frequency_exponent"),
        *(({name: value}, name) for name in ("latent_dim", "n_iterations", "n_steps") for value in (0, True)),
        ({"latent_dim": 6}, r"latent_dim: expected at most the number of items, 5, came 6"),
    ],
)
def test_settings_out_of_range(settings, named) -> None:
    with pytest.raises(UserError, match=rf"model\.{named}"):
        WMF(5, **{"latent_dim": 2, **settings})


def test_a_matrix_that_does_not_fit() -> None:
    with pytest.raises(
        UserError, match=r"latent_dim: expected at most the number of training users, 3, came 4"
    ):
        WMF(9, 4).fit(weighted_histories(3, 9))
    matrix = weighted_histories()
    matrix.data[2] = -1.0
    with pytest.raises(UserError, match="expected positive, finite interactions, came -1"):
        WMF(9, 3).fit(matrix)


def test_a_long_fit_says_how_far_it_is(monkeypatch, caplog) -> None:
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0.0)
    with caplog.at_level(logging.INFO):
        WMF(9, 3, n_iterations=2).fit(weighted_histories())
    assert "wmf: iteration 2 of 2" in caplog.text
