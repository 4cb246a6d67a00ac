"""The linear family against regressions solved column by column, enumerated dropout masks and the KKT conditions."""

from __future__ import annotations

import itertools
import logging

import numpy as np
import pytest
import torch
from contract import ModelContract
from made_up_histories import random_histories
from scipy.optimize import minimize
from scipy.sparse import csr_array

from recsys_vae.errors import UserError
from recsys_vae.models import DLAE, EASE, EDLAE, RDLAE, RLAE, memory
from recsys_vae.models.neighbourhood_weights import first_column_of_inverse

FAMILY = [EASE, EDLAE, DLAE, RLAE, RDLAE]


class _LinearContract(ModelContract):
    make: type

    def fresh(self, n_items):
        return self.make(n_items, l2=5.0)

    def fitted(self, matrix):
        return self.fresh(matrix.shape[1]).fit(matrix)


class TestEASE(_LinearContract):
    make = EASE


class TestEDLAE(_LinearContract):
    make = EDLAE


class TestDLAE(_LinearContract):
    make = DLAE


class TestRLAE(_LinearContract):
    make = RLAE


class TestRDLAE(_LinearContract):
    make = RDLAE


class TestSparse(_LinearContract):
    def fresh(self, n_items):
        return RDLAE(n_items, l2=5.0, dense_limit=1, n_neighbours=12)


def ratings(n_users: int = 50, n_items: int = 15, seed: int = 0) -> csr_array:
    """Histories with weights, so that nothing rests on x^2 = x."""
    matrix = random_histories(n_users, n_items, 0.3, seed)
    matrix.data = np.random.default_rng(seed).uniform(0.5, 1.5, len(matrix.data)).astype(np.float32)
    return matrix


def weighted_dense(matrix: csr_array, user_exponent: float) -> np.ndarray:
    """Each user's row times the root of the weight, from the definition."""
    dense = matrix.toarray().astype(np.float64)
    weights = np.array([max((row != 0).sum(), 1) ** -user_exponent for row in dense])
    weights *= (dense**2).sum() / (weights * (dense**2).sum(axis=1)).sum()
    return dense * np.sqrt(weights)[:, None]


@pytest.mark.parametrize("user_exponent", [0.0, 0.5])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_each_column_is_a_ridge_regression_on_the_other_items(dropout, user_exponent) -> None:
    # An oracle that knows nothing of Lagrange multipliers or of inverses of the Gram matrix.
    matrix = ratings()
    make = EDLAE(15, 3.0, dropout, user_exponent) if dropout else EASE(15, 3.0, user_exponent)
    weight = make.fit(matrix).weight.numpy()
    dense = weighted_dense(matrix, user_exponent)
    ridge = 3.0 + dropout / (1.0 - dropout) * (dense**2).sum(axis=0)
    for item in range(15):
        others = [i for i in range(15) if i != item]
        # As least squares of an extended system, which squares no condition number.
        design = np.vstack([dense[:, others], np.diag(np.sqrt(ridge[others]))])
        solution = np.linalg.lstsq(design, np.append(dense[:, item], np.zeros(14)), rcond=None)[0]
        np.testing.assert_allclose(weight[others, item], solution, rtol=0.0, atol=1e-6)
    assert (np.diag(weight) == 0).all()


@pytest.mark.parametrize("max_diagonal", [0.0, 0.25, 1.0])
def test_no_feasible_weights_are_better(max_diagonal) -> None:
    # The optimum under the bound, found by a quasi-Newton search with bounds that knows only the objective.
    matrix = ratings()
    dense = weighted_dense(matrix, 0.5)
    ridge = 2.0 + 0.3 / 0.7 * (dense**2).sum(axis=0)
    weight = RDLAE(15, 2.0, 0.3, max_diagonal, 0.5).fit(matrix).weight.numpy()
    for item in range(15):

        def loss(column, item=item):
            residual = dense[:, item] - dense @ column
            gradient = -2.0 * dense.T @ residual + 2.0 * ridge * column
            return residual @ residual + ridge @ column**2, gradient

        bounds = [(None, max_diagonal if row == item else None) for row in range(15)]
        found = minimize(
            loss,
            np.zeros(15),
            jac=True,
            bounds=bounds,
            options={"ftol": 1e-15, "gtol": 1e-9, "maxiter": 1000},
        )
        np.testing.assert_allclose(weight[:, item], found.x, rtol=0.0, atol=2e-6)


def test_some_diagonals_are_bounded_and_others_free_with_the_multipliers_of_the_paper() -> None:
    matrix = ratings(n_users=80)
    weight = RLAE(15, l2=10.0, max_diagonal=0.6, user_exponent=0.0).fit(matrix).weight.double().numpy()
    dense = matrix.toarray().astype(np.float64)
    gram = dense.T @ dense
    # Stationarity: G B + l2 B - G = -diag(mu), with mu_j >= 0, and 0 where the bound is not met.
    gradient = gram @ weight + 10.0 * weight - gram
    multipliers = -np.diag(gradient)
    np.testing.assert_allclose(gradient - np.diag(np.diag(gradient)), 0.0, atol=1e-5)
    bounded = np.diag(weight) > 0.6 - 1e-6
    assert 0 < bounded.sum() < 15
    assert (np.diag(weight) <= 0.6 + 1e-6).all()
    assert (multipliers[bounded] > 1e-4).all()
    np.testing.assert_allclose(multipliers[~bounded], 0.0, atol=1e-5)


def expected_dropout_loss(dense: np.ndarray, weight: torch.Tensor, dropout: float, hidden_only: bool):
    """Mean over all masks of a history's items, by enumeration, of the loss of reconstructing it."""
    total = torch.zeros((), dtype=torch.float64)
    for history in dense:
        x = torch.from_numpy(history)
        items = np.flatnonzero(history)
        for kept in itertools.product([False, True], repeat=len(items)):
            mask = torch.zeros(len(history), dtype=torch.float64)
            mask[items[list(kept)]] = 1.0 / (1.0 - dropout)
            probability = (1.0 - dropout) ** sum(kept) * dropout ** (len(items) - sum(kept))
            # An item that was never there is as if hidden: every mask hides it with the same probability.
            squares = (x - (mask * x) @ weight).square()
            if hidden_only:
                absent = torch.from_numpy(history == 0.0) * dropout
                squares = squares * torch.where(x == 0.0, absent, (mask == 0.0).double())
            total = total + probability * squares.sum()
    return total


@pytest.mark.parametrize(("make", "hidden_only"), [(DLAE, False), (EDLAE, True)])
def test_the_expected_loss_over_all_dropout_masks_is_what_is_minimised(make, hidden_only) -> None:
    dropout, l2 = 0.3, 0.7
    matrix = csr_array((np.random.default_rng(1).random((9, 6)) < 0.6).astype(np.float32))
    fitted = make(6, l2, dropout, 0.0).fit(matrix).weight.double()
    weight = fitted.clone().requires_grad_()
    loss = expected_dropout_loss(matrix.toarray().astype(np.float64), weight, dropout, hidden_only)
    # Of hidden items alone a share `dropout` of the loss is left, and l2 is counted against the whole.
    (loss + (dropout if hidden_only else 1.0) * l2 * weight.square().sum()).backward()
    free = ~torch.eye(6, dtype=torch.bool) if make is EDLAE else torch.ones(6, 6, dtype=torch.bool)
    assert weight.grad[free].abs().max() < 1e-5
    # And it is a gradient that can tell: at the weights of another dropout it is far from zero.
    weight.grad = None
    with torch.no_grad():
        weight.copy_(make(6, l2, 0.4, 0.0).fit(matrix).weight)
    loss = expected_dropout_loss(matrix.toarray().astype(np.float64), weight, dropout, hidden_only)
    (loss + (dropout if hidden_only else 1.0) * l2 * weight.square().sum()).backward()
    assert weight.grad[free].abs().max() > 1e-2


def test_hard_bounds_and_no_dropout_are_other_members_of_the_family() -> None:
    matrix = ratings()
    for one, other in (
        (RLAE(15, 3.0, 0.0, 0.2), EASE(15, 3.0, 0.2)),
        (RDLAE(15, 3.0, 0.3, 0.0), EDLAE(15, 3.0, 0.3)),
        (RDLAE(15, 3.0, 0.3, 1.0), DLAE(15, 3.0, 0.3)),
        (EDLAE(15, 3.0, 0.0, 0.2), EASE(15, 3.0, 0.2)),
    ):
        assert torch.equal(one.fit(matrix).weight, other.fit(matrix).weight)


def test_blocks_of_rows_change_nothing(monkeypatch) -> None:
    matrix = ratings()
    whole = RDLAE(15, 3.0).fit(matrix).weight.clone()
    monkeypatch.setattr("recsys_vae.models.linear_autoencoder._BLOCK_ENTRIES", 40)
    monkeypatch.setattr("recsys_vae.models.gram_matrix._BLOCK_ENTRIES", 40)
    torch.testing.assert_close(RDLAE(15, 3.0).fit(matrix).weight, whole, rtol=1e-6, atol=1e-7)


def test_float32_is_close_and_falls_back_to_float64_where_it_would_not_be(caplog) -> None:
    caplog.set_level(logging.INFO)
    matrix = ratings()
    wide = EDLAE(15, 3.0).fit(matrix).weight
    narrow = EDLAE(15, 3.0, precision="float32").fit(matrix).weight
    torch.testing.assert_close(narrow, wide, rtol=1e-4, atol=1e-6)
    assert "again in float64" not in caplog.text
    twins = csr_array(np.repeat(matrix.toarray(), 2, axis=1))  # each item twice: singular but for the ridge
    model = EASE(30, 1e-5, precision="float32").fit(twins)
    assert "again in float64" in caplog.text
    assert torch.equal(model.weight, EASE(30, 1e-5).fit(twins).weight)


def test_a_singular_matrix_is_refused() -> None:
    twins = csr_array(np.repeat(ratings().toarray(), 2, axis=1))
    with pytest.raises(UserError, match=r"model\.l2: .*condition number"):
        EASE(30, 1e-15).fit(twins)


@pytest.mark.parametrize("make", FAMILY)
@pytest.mark.parametrize("l2", [0.0, -1.0, float("nan"), float("inf")])
def test_l2_out_of_range(make, l2) -> None:
    with pytest.raises(UserError, match=r"model\.l2"):
        make(5, l2=l2)


@pytest.mark.parametrize(
    ("make", "name", "value"),
    [
        (EDLAE, "dropout", 1.0),
        (DLAE, "dropout", -0.1),
        (RDLAE, "dropout", float("nan")),
        (RLAE, "max_diagonal", -0.1),
        (RDLAE, "max_diagonal", 1.1),
        (EASE, "user_exponent", -1.0),
        (EASE, "precision", "bfloat16"),
    ],
)
def test_settings_out_of_range(make, name, value) -> None:
    with pytest.raises(UserError, match=rf"model\.{name}"):
        make(5, **{name: value})


def test_what_does_not_fit_in_memory_is_refused_with_its_size(monkeypatch) -> None:
    with pytest.raises(UserError, match=r"model\.dense_limit: .* 3725\.3 GiB"):
        EASE(1_000_000, dense_limit=1_000_000)
    monkeypatch.setattr(memory, "available_memory", lambda: 1500)
    model = EDLAE(15)  # 900 bytes
    with pytest.raises(UserError, match=r"model\.dense_limit: .* float64"):
        model.fit(ratings())  # 1800 more
    EDLAE(15, precision="float32").fit(ratings())
    with pytest.raises(UserError, match=r"model\.n_neighbours: .* 15 items"):
        EDLAE(15, dense_limit=10).fit(ratings())


def test_the_memory_is_told_before_the_work(caplog, monkeypatch) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(memory, "available_memory", lambda: None)
    EDLAE(15).fit(ratings())
    assert "15 x 15 weights take 0.00 GiB, their inversion in float64 0.00 GiB more" in caplog.messages[0]


@pytest.mark.parametrize("make", FAMILY)
def test_sparse_weights_with_every_item_as_a_neighbour_are_the_dense_ones(make) -> None:
    matrix = ratings(n_users=200)  # of whom every two items have one in common
    sparse = make(15, 3.0, dense_limit=14).fit(matrix)
    dense = make(15, 3.0, dense_limit=15).fit(matrix)
    np.testing.assert_allclose(sparse.sparse.matrix().toarray(), dense.weight.numpy(), rtol=0.0, atol=1e-6)


@pytest.mark.parametrize("entries", [40, 2**24])
def test_sparse_weights_solve_each_column_on_the_nearest_items(monkeypatch, entries) -> None:
    monkeypatch.setattr("recsys_vae.models.sparse_weights._BLOCK_ENTRIES", entries)
    matrix = ratings()
    found = EDLAE(15, 3.0, 0.4, 0.5, dense_limit=14, n_neighbours=4).fit(matrix).sparse.matrix().toarray()
    dense = weighted_dense(matrix, 0.5)  # four times four neighbours: nothing is cut off the Gram matrix
    ridge = 3.0 + 0.4 / 0.6 * (dense**2).sum(axis=0)
    gram = dense.T @ dense
    size = np.sqrt(np.diag(gram) + ridge)
    correlation = gram / np.outer(size, size) - 2.0 * np.eye(15)
    for item in range(15):
        nearest = np.argsort(-correlation[item])[:4]
        design = np.vstack([dense[:, nearest], np.diag(np.sqrt(ridge[nearest]))])
        expected = np.zeros(15)
        expected[nearest] = np.linalg.lstsq(design, np.append(dense[:, item], np.zeros(4)), rcond=None)[0]
        np.testing.assert_allclose(found[:, item], expected, rtol=0.0, atol=1e-6)


def test_neighbourhoods_that_are_not_definite_are_shrunk() -> None:
    # 1, 2 and 1, 3 agree, 2, 3 do not: no correlation matrix.
    matrix = np.array([[1.0, 0.9, 0.9], [0.9, 1.0, 0.0], [0.9, 0.0, 1.0]])
    assert np.linalg.eigvalsh(matrix).min() < 0.0
    column, shrunk = first_column_of_inverse(matrix.copy())
    assert shrunk
    halfway = 0.5 * (matrix + np.eye(3))
    np.testing.assert_allclose(halfway @ column, [1.0, 0.0, 0.0], atol=1e-12)
    column, shrunk = first_column_of_inverse(halfway)
    assert not shrunk
    np.testing.assert_allclose(halfway @ column, [1.0, 0.0, 0.0], atol=1e-12)
