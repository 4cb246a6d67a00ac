"""The sparse Gaussian field against dense covariances, thresholds and regressions written out."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_array

from recsys_vae.errors import UserError
from recsys_vae.graphical import sparse_gaussian_field as module
from recsys_vae.graphical.sparse_gaussian_field import max_weights, sparse_gaussian_field


def random_data(n_cases: int = 200, n_variables: int = 16, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(n_cases, 3)) @ rng.normal(size=(3, n_variables))
    kept = hidden + rng.normal(size=hidden.shape) > 0.5
    return np.where(kept, rng.uniform(0.5, 1.5, size=hidden.shape), 0.0)


def scaled_covariance(data: np.ndarray, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    centred = data - data.mean(axis=0)
    scale = (centred**2).sum(axis=0) ** (-alpha / 2.0)
    return (centred * scale).T @ (centred * scale), scale


def pattern(covariance: np.ndarray, density: float) -> np.ndarray:
    strength = np.abs(np.triu(covariance, k=1))
    n_pairs = max_weights(len(covariance), density) // 2
    kept = strength >= np.sort(strength.ravel())[-n_pairs]
    return kept | kept.T


@pytest.mark.parametrize("alpha", [0.0, 0.75, 1.0])
@pytest.mark.parametrize("density", [0.2, 1.0])
def test_each_variable_regresses_on_its_neighbours(alpha, density) -> None:
    data = random_data()
    field = sparse_gaussian_field(csr_array(data), density=density, l2=0.7, alpha=alpha, block_share=0.0)
    covariance, scale = scaled_covariance(data, alpha)
    kept = pattern(covariance, density)
    expected = np.zeros_like(covariance)
    for variable in range(len(covariance)):
        others = np.flatnonzero(kept[variable])
        ridge = covariance[np.ix_(others, others)] + 0.7 * np.eye(len(others))
        weights = np.linalg.solve(ridge, covariance[others, variable])
        expected[others, variable] = weights * scale[others] / scale[variable]
    np.testing.assert_allclose(field.weights.toarray(), expected, rtol=2e-4, atol=1e-5)
    np.testing.assert_allclose(field.mean, data.mean(axis=0), rtol=1e-6)


@pytest.mark.parametrize("block_share", [0.3, 1.0])
def test_overlapping_blocks_are_averaged(block_share) -> None:
    data = random_data()
    field = sparse_gaussian_field(csr_array(data), density=0.3, l2=0.7, alpha=0.75, block_share=block_share)
    covariance, scale = scaled_covariance(data, 0.75)
    kept = pattern(covariance, 0.3)
    n_variables = len(covariance)
    waiting, total, times = set(range(n_variables)), np.zeros_like(covariance), np.zeros_like(covariance)
    while waiting:
        head = max(waiting, key=lambda v: (kept[v].sum(), covariance[v, v]))
        neighbours = sorted(np.flatnonzero(kept[head]), key=lambda v: -abs(covariance[v, head]))
        block = [head, *neighbours]
        inverse = np.linalg.inv(covariance[np.ix_(block, block)] + 0.7 * np.eye(len(block)))
        for place in range(max(1, int(np.ceil(len(block) * block_share)))):
            waiting.discard(block[place])
            total[block, block[place]] += -inverse[:, place] / inverse[place, place]
            times[block, block[place]] += 1
    expected = np.where(kept, total / np.maximum(times, 1), 0.0) * scale[:, None] / scale
    np.testing.assert_allclose(field.weights.toarray(), expected, rtol=2e-4, atol=1e-5)
    assert times.max() > 1


def test_a_sparse_precision_is_recovered() -> None:
    # A chain: each variable depends on its two neighbours alone, with known weights.
    n_cases, n_variables = 40_000, 6
    precision = np.eye(n_variables) - 0.4 * (np.eye(n_variables, k=1) + np.eye(n_variables, k=-1))
    covariance = np.linalg.inv(precision)
    data = np.random.default_rng(0).multivariate_normal(np.arange(6.0), covariance, size=n_cases)
    field = sparse_gaussian_field(csr_array(data), density=1.0, l2=1e-6, alpha=0.0, block_share=0.0)
    expected = np.eye(n_variables) - precision / np.diag(precision)
    # Of a regression: residual variance 1 / precision_jj, times the precision of the predictors among themselves.
    for variable in range(n_variables):
        others = [i for i in range(n_variables) if i != variable]
        error = np.sqrt(np.diag(np.linalg.inv(covariance[np.ix_(others, others)])) / n_cases)
        deviation = np.abs(field.weights.toarray()[others, variable] - expected[others, variable])
        assert (deviation < 4.5 * error).all()


def test_in_small_blocks_and_with_sparse_products(monkeypatch) -> None:
    data = csr_array(random_data())
    whole = sparse_gaussian_field(data, density=0.3, l2=1.0)
    monkeypatch.setattr(module, "_BLOCK_ENTRIES", 40)
    parts = sparse_gaussian_field(data, density=0.3, l2=1.0)
    monkeypatch.setattr(module, "_DENSE_VARIABLES", 3)
    sparse = sparse_gaussian_field(data, density=0.3, l2=1.0)
    np.testing.assert_allclose(parts.weights.toarray(), whole.weights.toarray(), rtol=1e-6)
    np.testing.assert_allclose(sparse.weights.toarray(), whole.weights.toarray(), rtol=1e-6)


def test_of_pairs_that_tie_the_first_are_taken() -> None:
    # Three pairs of copies, equally correlated; room for two.
    columns = np.array([[1, 1, 0, 0, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1, 0, 0]]).T
    data = csr_array(np.repeat(columns, 2, axis=1).astype(float))
    field = sparse_gaussian_field(data, density=4 / 36, l2=1.0)
    assert sorted(zip(*(part.tolist() for part in field.weights.nonzero()), strict=True)) == [
        (0, 1),
        (1, 0),
        (2, 3),
        (3, 2),
    ]


def test_what_does_not_vary_has_no_neighbours() -> None:
    data = random_data()
    data[:, 3] = 1.0
    data[:, 5] = 0.0
    field = sparse_gaussian_field(csr_array(data), density=1.0, l2=1.0)
    weights = field.weights.toarray()
    assert np.isfinite(weights).all()
    assert not weights[[3, 5]].any()
    assert not weights[:, [3, 5]].any()


def test_a_density_too_small_for_any_pair() -> None:
    field = sparse_gaussian_field(csr_array(random_data()), density=1e-4, l2=1.0)
    assert field.weights.nnz == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("density", 0.0),
        ("density", 1.5),
        ("l2", 0.0),
        ("alpha", 2.0),
        ("block_share", -0.1),
        ("max_neighbours", 0),
    ],
)
def test_settings_out_of_range(name, value) -> None:
    with pytest.raises(UserError, match=name):
        sparse_gaussian_field(csr_array(random_data()), **{"density": 0.5, "l2": 1.0, name: value})
