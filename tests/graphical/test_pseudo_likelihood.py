"""The pseudo-likelihood against its definition, and fits to data whose field is known."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from scipy.special import expit, logit

from recsys_vae.errors import UserError
from recsys_vae.graphical import pseudo_likelihood as module
from recsys_vae.graphical.pairwise_field import BinaryField
from recsys_vae.graphical.pseudo_likelihood import PseudoLikelihood, fit_pseudo_likelihood, strongest_pairs

PAIRS = np.array(list(itertools.combinations(range(6), 2))).T
KNOWN = np.array([[0, 1], [1, 2], [2, 3], [3, 0], [3, 4]]).T  # a square with a tail; 5 stands alone
COUPLINGS = np.array([1.2, -0.9, 1.5, 0.8, -1.4])
BIASES = np.array([-0.8, 0.3, -1.0, -0.2, 0.6, -0.5])


def random_data(n_cases: int = 30, n_variables: int = 6, share: float = 0.4, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).random((n_cases, n_variables)) < share).astype(float)


def sampled(n_cases: int, seed: int) -> np.ndarray:
    """Independent draws from the known field, by its full table."""
    values = np.array(list(itertools.product([0.0, 1.0], repeat=6)))
    weight = values @ BIASES + (values[:, KNOWN[0]] * values[:, KNOWN[1]]) @ COUPLINGS
    probability = np.exp(weight) / np.exp(weight).sum()
    return values[np.random.default_rng(seed).choice(len(values), size=n_cases, p=probability)]


def plain_loss(data: np.ndarray, edges: np.ndarray, couplings: np.ndarray, biases: np.ndarray) -> float:
    """Case by case and variable by variable; the made-up case is the last."""
    total = 0.0
    for case in data:
        for variable in range(len(biases)):
            log_odds = biases[variable]
            for (one, other), coupling in zip(edges.T, couplings, strict=True):
                if variable in (one, other):
                    log_odds += coupling * case[one + other - variable]
            total -= math.log(expit(log_odds if case[variable] else -log_odds))
    for bias in biases:
        total -= 0.5 * math.log(expit(bias)) + 0.5 * math.log(expit(-bias))
    return total


def sandwich(data: np.ndarray, edges: np.ndarray, couplings: np.ndarray, biases: np.ndarray) -> np.ndarray:
    """Standard errors of the maximum, couplings first: inverse curvature, spread of the cases' gradients, and again."""
    n_edges, n_variables = len(couplings), len(biases)
    design = np.zeros((len(data), n_variables, n_edges + n_variables))
    design[:, np.arange(n_variables), n_edges + np.arange(n_variables)] = 1.0
    for number, (one, other) in enumerate(edges.T):
        design[:, one, number], design[:, other, number] = data[:, other], data[:, one]
    probability = expit(design @ np.concatenate([couplings, biases]))
    gradients = np.einsum("cvp,cv->cp", design, probability - data)
    curvature = np.linalg.inv(np.einsum("cvp,cv,cvq->pq", design, probability * (1.0 - probability), design))
    return np.sqrt(np.diag(curvature @ (gradients.T @ gradients) @ curvature))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("edges", [PAIRS, KNOWN, KNOWN[:, :0]])
def test_the_loss_is_that_of_the_definition(seed, edges, monkeypatch) -> None:
    monkeypatch.setattr(module, "_BLOCK_ENTRIES", 25)  # blocks of four cases, and of four variables
    data = random_data(seed=seed)
    rng = np.random.default_rng(seed)
    couplings, biases = rng.normal(size=edges.shape[1]), rng.normal(size=6)
    loss, _, _ = PseudoLikelihood(csr_array(data), edges, l2=0.7).value_and_gradient(couplings, biases)
    expected = plain_loss(data, edges, couplings, biases) + 0.35 * (couplings**2).sum()
    assert loss == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("edges", [PAIRS, KNOWN])
def test_the_gradient_is_that_of_finite_differences(edges, monkeypatch) -> None:
    monkeypatch.setattr(module, "_BLOCK_ENTRIES", 25)
    target = PseudoLikelihood(csr_array(random_data()), edges, l2=0.7)
    rng = np.random.default_rng(1)
    couplings, biases = rng.normal(size=edges.shape[1]), rng.normal(size=6)
    _, by_coupling, by_bias = target.value_and_gradient(couplings, biases)
    for values, gradient in ((couplings, by_coupling), (biases, by_bias)):
        for place in range(len(values)):
            kept, losses = values[place], []
            for step in (1e-5, -1e-5):
                values[place] = kept + step
                losses.append(target.value_and_gradient(couplings, biases)[0])
            values[place] = kept
            assert (losses[0] - losses[1]) / 2e-5 == pytest.approx(gradient[place], rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("l1", [0.0, 4.0])
def test_the_coordinates_of_the_search_have_the_gradient_too(l1) -> None:
    target = PseudoLikelihood(csr_array(random_data()), KNOWN, l2=0.7)
    search = module._Coordinates(target, l1)
    position = search.start() + np.random.default_rng(2).uniform(0.1, 1.0, len(search.start()))
    value, gradient = search.value_and_gradient(position)
    couplings, biases = search.parameters(position)
    if not l1:
        assert value == target.value_and_gradient(couplings, biases)[0]
    for place in range(len(position)):
        step = np.zeros(len(position))
        step[place] = 1e-5
        above, below = (search.value_and_gradient(position + s)[0] for s in (step, -step))
        assert (above - below) / 2e-5 == pytest.approx(gradient[place], rel=1e-5, abs=1e-5)


def test_far_log_odds_neither_overflow_nor_lose_the_loss() -> None:
    data = np.array([[1.0, 1.0], [0.0, 0.0]])
    loss, by_coupling, by_bias = PseudoLikelihood(csr_array(data), np.array([[0], [1]])).value_and_gradient(
        np.array([900.0]), np.array([-400.0, 800.0])
    )
    # Of the first case nothing; of the second and of the made-up one, log(1 + exp(bias)) less what is observed.
    assert loss == pytest.approx(800.0 + 200.0 + 400.0, rel=1e-12)
    assert np.isfinite(by_coupling).all()
    assert np.isfinite(by_bias).all()


def test_a_known_field_is_recovered_within_error_bars() -> None:
    n_cases = 20_000
    data = sampled(n_cases, seed=3)
    found = fit_pseudo_likelihood(csr_array(data), PAIRS, tolerance=1e-12, max_iterations=500)
    assert found.converged
    expected = np.zeros(PAIRS.shape[1])
    for (one, other), coupling in zip(np.sort(KNOWN, axis=0).T, COUPLINGS, strict=True):
        expected[(PAIRS[0] == one) & (PAIRS[1] == other)] = coupling
    errors = sandwich(data, PAIRS, found.field.couplings.numpy(), found.field.biases.numpy())
    deviation = np.concatenate(
        [found.field.couplings.numpy() - expected, found.field.biases.numpy() - BIASES]
    )
    assert (np.abs(deviation) < 4.5 * errors).all()
    assert errors.max() < 0.08  # so that no coupling, all 0.8 or more, could be missed


def test_the_search_ends_where_the_gradient_vanishes() -> None:
    data = csr_array(sampled(500, seed=4))
    found = fit_pseudo_likelihood(data, KNOWN, l2=2.0, tolerance=1e-14, max_iterations=500)
    target = PseudoLikelihood(data, KNOWN, l2=2.0)
    loss, by_coupling, by_bias = target.value_and_gradient(
        found.field.couplings.numpy(), found.field.biases.numpy()
    )
    assert loss == pytest.approx(found.loss, rel=1e-12)
    assert max(np.abs(by_coupling).max(), np.abs(by_bias).max()) < 1e-3
    free = fit_pseudo_likelihood(data, KNOWN, tolerance=1e-14, max_iterations=500)
    assert float(found.field.couplings.square().sum()) < float(free.field.couplings.square().sum())
    cut = fit_pseudo_likelihood(data, KNOWN, l2=2.0, tolerance=1e-14, max_iterations=1)
    assert (cut.converged, cut.n_iterations) == (False, 1)
    assert cut.loss > found.loss


def test_l1_leaves_only_the_edges_that_are_there() -> None:
    """At its minimum a coupling is 0 where the slope is within l1, and elsewhere the slope is l1."""
    data, l1 = csr_array(sampled(5000, seed=5)), 120.0
    found = fit_pseudo_likelihood(data, PAIRS, l1=l1, l2=1.0, tolerance=1e-14, max_iterations=1000)
    couplings = found.field.couplings.numpy()
    _, slope, _ = PseudoLikelihood(data, PAIRS, l2=1.0).value_and_gradient(
        couplings, found.field.biases.numpy()
    )
    there = couplings != 0.0
    assert (np.abs(slope[~there]) <= l1 + 1e-2).all()
    np.testing.assert_allclose(slope[there], -l1 * np.sign(couplings[there]), atol=1e-2)
    kept = set(map(tuple, PAIRS.T[there].tolist()))
    assert kept == set(map(tuple, np.sort(KNOWN, axis=0).T.tolist()))
    full = fit_pseudo_likelihood(data, PAIRS, l2=1.0)
    assert bool((full.field.couplings != 0.0).all())


def test_each_iteration_is_told() -> None:
    told: list[int] = []
    found = fit_pseudo_likelihood(random_data(), KNOWN, l2=1.0, on_iteration=told.append)
    assert told == list(range(1, found.n_iterations + 1))
    assert len(told) > 2


def test_without_edges_biases_are_the_log_odds_of_each_alone() -> None:
    data = random_data()
    data[:, 2], data[:, 4] = 0.0, 1.0  # never, and always
    found = fit_pseudo_likelihood(
        csr_array(data), np.zeros((2, 0), dtype=np.int64), tolerance=1e-14, max_iterations=500
    )
    expected = logit((data.sum(axis=0) + 0.5) / (len(data) + 1.0))
    np.testing.assert_allclose(found.field.biases.numpy(), expected, atol=1e-5)


def test_values_other_than_0_and_1_count_as_1_and_the_data_stay_as_they_are() -> None:
    data = csr_array(random_data())
    weighted = csr_array((np.full(data.nnz, 2.5), data.indices, data.indptr), shape=data.shape)
    before = weighted.copy()
    fits = [fit_pseudo_likelihood(matrix, KNOWN, l2=1.0).field for matrix in (data, weighted)]
    assert torch.equal(fits[0].couplings, fits[1].couplings)
    np.testing.assert_array_equal(strongest_pairs(data, 2), strongest_pairs(weighted, 2))
    assert (before != weighted).nnz == 0


def test_the_strongest_pairs_are_those_of_most_mutual_information(monkeypatch) -> None:
    monkeypatch.setattr(module, "_BLOCK_ENTRIES", 25)
    data = sampled(200, seed=6)
    information = np.full((6, 6), -np.inf)
    for one, other in itertools.permutations(range(6), 2):
        table = np.full((2, 2), 0.5)
        for case in data.astype(int):
            table[case[one], case[other]] += 1.0
        joint = table / table.sum()
        independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0)
        information[one, other] = (joint * np.log(joint / independent)).sum()
    expected = {
        (min(variable, int(other)), max(variable, int(other)))
        for variable in range(6)
        for other in np.argsort(-information[variable])[:2]
    }
    pairs = strongest_pairs(csr_array(data), 2)
    assert sorted(expected) == [tuple(pair) for pair in pairs.T.tolist()]
    assert strongest_pairs(csr_array(data), 99).shape == (2, 15)
    assert strongest_pairs(csr_array(data[:, :1]), 3).shape == (2, 0)


def test_of_variables_that_tie_the_lowest_are_taken() -> None:
    data = np.repeat(np.array([[1.0, 0.0, 1.0, 0.0]]).T, 4, axis=1)  # four copies
    assert strongest_pairs(csr_array(data), 1).T.tolist() == [[0, 1], [0, 2], [0, 3]]


def test_of_the_strongest_pairs_a_field_is_a_field() -> None:
    data = csr_array(sampled(300, seed=7))
    found = fit_pseudo_likelihood(data, strongest_pairs(data, 2), l2=1.0)
    assert isinstance(found.field, BinaryField)
    assert bool(torch.isfinite(found.field.couplings).all())


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda d: fit_pseudo_likelihood(d, KNOWN, l2=-1.0),
            r"l2: expected a number in \[0, inf\), came -1.0",
        ),
        (
            lambda d: fit_pseudo_likelihood(d, KNOWN, l1=math.nan),
            r"l1: expected a number in \[0, inf\), came nan",
        ),
        (
            lambda d: fit_pseudo_likelihood(d, KNOWN, tolerance=0.0),
            "tolerance: expected a positive number, came 0",
        ),
        (
            lambda d: fit_pseudo_likelihood(d, KNOWN, max_iterations=0),
            "max_iterations: expected a whole number",
        ),
        (lambda d: fit_pseudo_likelihood(d, KNOWN + 2), "edges: expected nodes from 0 to 5, came 2 to 6"),
        (lambda d: fit_pseudo_likelihood(d[:0], KNOWN), "data: expected a matrix"),
        (lambda d: strongest_pairs(d, 0), "n_neighbours: expected a whole number of at least 1, came 0"),
        (lambda d: strongest_pairs(d[:, :0], 1), "data: expected a matrix"),
    ],
)
def test_what_cannot_be_fitted(call, said) -> None:
    with pytest.raises(UserError, match=f"^{said}"):
        call(csr_array(random_data()))
