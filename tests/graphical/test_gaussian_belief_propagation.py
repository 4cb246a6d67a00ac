"""Gaussian messages against direct solves."""

from __future__ import annotations

import importlib
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csc_array, csr_array, diags_array, random_array
from scipy.sparse.linalg import spsolve

from recsys_vae.errors import UserError
from recsys_vae.graphical import gaussian_belief_propagation

SEEDS = st.integers(0, 2**31)


def forest(random: Random, n: int) -> csr_array:
    """Positive definite, of one or more trees."""
    residual = np.eye(n)
    order = random.sample(range(n), n)
    for place in range(1, n):
        if random.random() < 0.9:
            residual[order[place], order[random.randrange(place)]] = random.gauss(0, 1)
    return csr_array(residual.T @ np.diag([random.uniform(0.5, 2.0) for _ in range(n)]) @ residual)


def walk_summable(seed: int, n: int = 30, share: float = 0.9) -> csr_array:
    """With many cycles; the spectral radius of the absolute partial correlations is ``share``."""
    rng = np.random.default_rng(seed)
    pattern = random_array((n, n), density=3.0 / n, rng=rng, data_sampler=rng.standard_normal).toarray()
    links = np.triu(pattern, 1) + np.triu(pattern, 1).T
    links *= share / np.abs(np.linalg.eigvalsh(np.abs(links))).max()
    scale = np.sqrt(rng.uniform(0.5, 2.0, n))
    return csr_array(scale[:, None] * (np.eye(n) - links) * scale)


def potential(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_exact_on_forests(seed) -> None:
    random = Random(seed)
    n = random.randint(1, 12)
    matrix = forest(random, n)
    h = potential(seed, n)
    found = gaussian_belief_propagation(matrix, h)
    inverse = np.linalg.inv(matrix.toarray())
    np.testing.assert_allclose(found.mean, inverse @ h.numpy(), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(found.variance, inverse.diagonal(), rtol=1e-10, atol=1e-10)
    assert bool(found.converged)
    assert int(found.n_iterations) == 0


@pytest.mark.parametrize("shape", ["chain", "star", "pair", "two chains"])
def test_exact_on_known_trees(shape) -> None:
    n = {"pair": 2}.get(shape, 40)
    links = {
        "chain": [(k, k + 1) for k in range(n - 1)],
        "star": [(7, k) for k in range(n) if k != 7],
        "pair": [(0, 1)],
        "two chains": [(k, k + 1) for k in range(n - 1) if k != 19],
    }[shape]
    matrix = np.eye(n) * (n if shape == "star" else 2.1)
    for one, other in links:
        matrix[one, other] = matrix[other, one] = -0.9
    h = potential(1, 3, n)
    found = gaussian_belief_propagation(csr_array(matrix), h)
    np.testing.assert_allclose(found.mean, np.linalg.solve(matrix, h.numpy().T).T, rtol=0, atol=1e-10)
    np.testing.assert_allclose(found.variance, np.linalg.inv(matrix).diagonal(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("seed", range(8))
def test_means_are_exact_on_walk_summable_graphs(seed) -> None:
    matrix = walk_summable(seed)
    h = potential(seed, 4, 30)
    found = gaussian_belief_propagation(matrix, h, tolerance=1e-13)
    dense = matrix.toarray()
    assert bool(found.converged)
    assert int(found.n_iterations) > 1
    np.testing.assert_allclose(found.mean, np.linalg.solve(dense, h.numpy().T).T, rtol=0, atol=1e-9)
    exact = np.linalg.inv(dense).diagonal()
    off = np.abs(found.variance.numpy() / exact - 1.0)
    assert 1e-6 < off.max() < 0.5


def test_variances_count_the_walks_that_turn_back() -> None:
    """On one cycle of equal links: the fixed point of a message to itself, by hand; too small where links attract."""
    n, link = 9, -0.45
    matrix = np.eye(n) + link * (np.roll(np.eye(n), 1, axis=0) + np.roll(np.eye(n), -1, axis=0))
    found = gaussian_belief_propagation(
        csr_array(matrix), torch.ones(n, dtype=torch.float64), tolerance=1e-14
    )
    message = -(1.0 - np.sqrt(1.0 - 4.0 * link**2)) / 2.0
    np.testing.assert_allclose(found.variance, 1.0 / (1.0 + 2.0 * message), rtol=1e-10)
    assert float(found.variance[0]) < np.linalg.inv(matrix)[0, 0]


def test_branches_on_a_cycle_hear_it_and_are_heard() -> None:
    """Two cycles on a bridge, with branches everywhere: means are exact throughout."""
    links = [
        (0, 1),
        (1, 2),
        (2, 0),
        (2, 3),
        (3, 4),
        (4, 5),
        (5, 6),
        (6, 4),
        (1, 7),
        (7, 8),
        (7, 9),
        (3, 10),
        (6, 11),
    ]
    matrix = 4.0 * np.eye(12)
    for number, (one, other) in enumerate(links):
        matrix[one, other] = matrix[other, one] = (-1.0) ** number
    h = potential(2, 12)
    found = gaussian_belief_propagation(csr_array(matrix), h, tolerance=1e-14)
    np.testing.assert_allclose(found.mean, np.linalg.solve(matrix, h.numpy()), rtol=0, atol=1e-11)
    # All edges by flooding, in a few lines of NumPy: the same beliefs as with the branches taken away.
    precision, told = np.zeros((12, 12)), np.zeros((12, 12))
    for _ in range(300):
        own, spoken = matrix.diagonal() + precision.sum(axis=0), h.numpy() + told.sum(axis=0)
        gain = np.where(np.eye(12) == 1, 0.0, matrix) / (own[:, None] - precision.T)
        told = -gain * (spoken[:, None] - told.T)
        precision = -gain * matrix
    own = matrix.diagonal() + precision.sum(axis=0)
    np.testing.assert_allclose(found.variance, 1.0 / own, rtol=1e-11)
    np.testing.assert_allclose(found.mean, (h.numpy() + told.sum(axis=0)) / own, atol=1e-11)


def test_a_long_chain() -> None:
    """Ten thousand variables, in random order; flooding would take as many rounds."""
    n = 10_000
    rng = np.random.default_rng(4)
    residual = diags_array([rng.uniform(0.5, 1.5, n), rng.normal(size=n - 1)], offsets=[0, 1], format="csc")
    matrix = csc_array(residual.T @ residual + diags_array(np.full(n, 0.1)))
    order = rng.permutation(n)
    matrix = csr_array(matrix[order][:, order])
    h = potential(5, 2, n)
    found = gaussian_belief_propagation(matrix, h)
    assert bool(found.converged)
    np.testing.assert_allclose(found.mean, spsolve(csc_array(matrix), h.numpy().T).T, rtol=1e-9, atol=1e-9)
    some = rng.choice(n, 5, replace=False)
    columns = spsolve(csc_array(matrix), csc_array(np.eye(n)[:, some])).toarray()
    np.testing.assert_allclose(found.variance[some], columns[some, range(5)], rtol=1e-9)


def test_a_tree_costs_as_much_as_it_has_edges(monkeypatch) -> None:
    """Every edge sends inwards once, and outwards once: counted, not timed."""
    # By importlib: in the package, the function stands for the module of its name.
    module = importlib.import_module("recsys_vae.graphical.gaussian_belief_propagation")
    levels = []
    plain = module._branches
    monkeypatch.setattr(module, "_branches", lambda *args: levels.extend(plain(*args)) or levels)
    random = Random(6)
    matrix = forest(random, 200)
    gaussian_belief_propagation(matrix, potential(6, 200))
    edges = torch.cat(levels)
    assert len(edges) == len(edges.unique()) == (matrix.nnz - 200) // 2


def test_a_batch_is_each_alone() -> None:
    matrix = walk_summable(3)
    h = potential(7, 5, 30) * torch.tensor([1.0, 1e-6, 1e6, 0.0, 1.0])[:, None]
    together = gaussian_belief_propagation(matrix, h)
    for case in range(5):
        alone = gaussian_belief_propagation(matrix, h[case])
        scale = float(alone.mean.abs().max()) or 1.0
        torch.testing.assert_close(together.mean[case] / scale, alone.mean / scale, rtol=0, atol=1e-8)
        torch.testing.assert_close(together.variance, alone.variance, rtol=0, atol=1e-8)
    none = gaussian_belief_propagation(matrix, h[:0])
    assert none.mean.shape == (0, 30)
    torch.testing.assert_close(none.variance, together.variance, rtol=0, atol=1e-8)


def test_a_small_case_is_not_done_before_it_is() -> None:
    """One case is large and settles soon; the other, small and slow, is measured by itself."""
    fast, slow = walk_summable(11, share=0.2).toarray(), walk_summable(12, share=0.97).toarray()
    nothing = np.zeros((30, 30))
    matrix = np.block([[fast, nothing], [nothing, slow]])
    h = torch.zeros(2, 60, dtype=torch.float64)
    h[0, :30], h[1, 30:] = 1e12 * potential(14, 30), potential(15, 30)
    found = gaussian_belief_propagation(csr_array(matrix), h)
    exact = np.linalg.solve(matrix, h[1].numpy())
    assert np.abs(found.mean[1].numpy() - exact).max() < 1e-8 * np.abs(exact).max()


@pytest.mark.parametrize("joined", [0.0, 1e-13])
def test_a_quiet_part_of_a_graph_is_not_done_before_it_is(joined) -> None:
    """Beside a part that is louder by twelve orders and settles soon, apart or joined by a hair."""
    slow, fast = 0.4999, 0.3
    matrix = np.zeros((6, 6))
    matrix[:3, :3], matrix[3:, 3:] = fast, slow
    np.fill_diagonal(matrix, 1.0)
    matrix[0, 3] = matrix[3, 0] = joined
    h = torch.tensor([1e12, 0.0, 0.0, 1.0, 2.0, -3.0], dtype=torch.float64)
    found = gaussian_belief_propagation(csr_array(matrix), h)
    assert bool(found.converged)
    expected = np.linalg.solve(matrix, h.numpy())
    np.testing.assert_allclose(found.mean[3:], expected[3:], rtol=0, atol=1e-5)


def test_messages_that_cancel_settle() -> None:
    """Where loud neighbours outvote each other, what is left of them is rounding: it is no reason to go on."""
    matrix = walk_summable(9, n=8, share=0.7).toarray()
    mirrored = np.block([[matrix, np.zeros((8, 8))], [np.zeros((8, 8)), matrix]])
    middle = np.zeros((17, 17))
    middle[:16, :16], middle[16, 16] = mirrored, 4.0
    for one in (0, 1, 8, 9):
        middle[one, 16] = middle[16, one] = 0.1
    loud = 1e9 * potential(16, 8)
    h = torch.cat([loud, -loud, torch.zeros(1, dtype=torch.float64)])
    found = gaussian_belief_propagation(csr_array(middle), h)
    assert bool(found.converged)
    np.testing.assert_allclose(found.mean, np.linalg.solve(middle, h.numpy()), rtol=1e-6, atol=1.0)


def test_damping_changes_the_way_not_the_end() -> None:
    matrix = walk_summable(4, share=0.6)
    h = potential(8, 30)
    plain = gaussian_belief_propagation(matrix, h, tolerance=1e-12)
    damped = gaussian_belief_propagation(matrix, h, damping=0.5, tolerance=1e-12)
    assert int(damped.n_iterations) > int(plain.n_iterations)
    torch.testing.assert_close(damped.mean, plain.mean, rtol=0, atol=1e-10)
    torch.testing.assert_close(damped.variance, plain.variance, rtol=0, atol=1e-10)


def test_rounds_that_do_not_suffice_are_told() -> None:
    found = gaussian_belief_propagation(walk_summable(5, share=0.99), potential(9, 30), max_iterations=3)
    assert not bool(found.converged)
    assert int(found.n_iterations) == 3
    assert float(found.residual) > 1e-10


def complete(n: int, link: float) -> csr_array:
    return csr_array((1.0 - link) * np.eye(n) + link * np.ones((n, n)))


@pytest.mark.parametrize(
    ("matrix", "said"),
    [
        # Positive definite, yet not walk-summable: the beliefs' precisions fall below zero.
        (
            complete(6, 0.5),
            r"precision: expected a walk-summable .* the belief of variable \d lost .* round \d+;",
        ),
        # Here the precisions settle, and the means are multiplied in every round.
        (
            complete(4, 0.35),
            r"precision: expected a walk-summable .* the messages grew without bound by round \d+;",
        ),
        # Not even positive definite, on a tree, and on a cycle with a branch.
        (
            csr_array([[1.0, 2.0], [2.0, 1.0]]),
            "precision: expected a positive definite .* variable 0",
        ),
        (csr_array([[1.0, 1.0], [1.0, 1.0]]), "precision: expected a positive definite matrix"),
        (
            csr_array(np.array([[1.0, 1.2, 0], [1.2, 1.0, 0.1], [0, 0.1, 1.0]])),
            "precision: expected a positive definite",
        ),
    ],
)
def test_what_messages_cannot_solve_is_an_error(matrix, said) -> None:
    n = matrix.shape[0]
    with pytest.raises(UserError, match=f"^{said}"):
        gaussian_belief_propagation(matrix, potential(10, n))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"precision": csr_array(np.ones((2, 3)))}, r"precision: expected a square matrix, came \(2, 3\)"),
        ({"precision": csr_array([[1.0, 0.5], [0.2, 1.0]])}, "precision: expected a symmetric matrix"),
        (
            {"precision": csr_array([[1.0, 0.5], [0.5, 0.0]])},
            "precision: expected a positive diagonal, came 0",
        ),
        (
            {"precision": csr_array([[1.0, np.nan], [np.nan, 1.0]])},
            "precision: expected finite numbers, came NaN",
        ),
        ({"potential": torch.zeros(3)}, r"potential: expected .* of 2, came \(3,\)"),
        ({"potential": torch.zeros(1, 1, 2)}, r"potential: expected .* of 2, came \(1, 1, 2\)"),
        ({"potential": torch.tensor([0.0, torch.inf])}, "potential: expected finite numbers"),
        ({"damping": 1.0}, r"damping: expected a number in \[0, 1\), came 1.0"),
        ({"tolerance": 0.0}, "tolerance: expected a positive number, came 0.0"),
        ({"max_iterations": 0}, "max_iterations: expected a whole number of at least 1, came 0"),
    ],
)
def test_what_cannot_be_asked(options, said) -> None:
    asked = {"precision": csr_array(np.eye(2)), "potential": torch.zeros(2), **options}
    with pytest.raises(UserError, match=f"^{said}"):
        gaussian_belief_propagation(**asked)


def test_an_entry_stored_twice_or_on_one_side_only() -> None:
    """Duplicates add up, and an entry within rounding of zero may lack its twin."""
    double = csr_array(
        ([1.0, 1.0, 0.2, 0.3, 2.0, 0.5], ([0, 0, 0, 0, 1, 1], [0, 0, 1, 1, 1, 0])), shape=(2, 2)
    )
    h = potential(12, 2)
    found = gaussian_belief_propagation(double, h)
    np.testing.assert_allclose(found.mean, np.linalg.solve([[2.0, 0.5], [0.5, 2.0]], h.numpy()), atol=1e-12)
    lopsided = np.diag([2.0, 2.0, 2.0, 2.0])
    for one, other in ((0, 1), (1, 2), (2, 0), (2, 3)):
        lopsided[one, other] = lopsided[other, one] = 0.5
    lopsided[0, 3] = 1e-15
    h = potential(13, 4)
    found = gaussian_belief_propagation(csr_array(lopsided), h, tolerance=1e-14)
    np.testing.assert_allclose(found.mean, np.linalg.solve(lopsided, h.numpy()), atol=1e-12)
