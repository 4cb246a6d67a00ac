"""Learned trees: maximum spanning trees of mutual informations written out densely, and trees that data came from."""

from __future__ import annotations

import itertools
from random import Random

import numpy as np
import pytest
import torch
from forests import sampled
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

from recsys_vae.errors import UserError
from recsys_vae.graphical import chow_liu as chow_liu_module
from recsys_vae.graphical.chow_liu import chow_liu_tree
from recsys_vae.graphical.pairwise_tree import BinaryTree


def random_data(seed: int, n_cases: int = 60, n_variables: int = 12) -> np.ndarray:
    """Variables that depend on a hidden one, so that mutual informations differ."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(n_cases, 3)) @ rng.normal(size=(3, n_variables))
    return (hidden + rng.normal(size=hidden.shape) > rng.normal(size=n_variables)).astype(np.float32)


def joint_tables(data: np.ndarray, smoothing: float) -> np.ndarray:
    """``p(x_i = a, x_j = b)`` as ``[i, j, a, b]``."""
    states = np.stack([1.0 - data, data]).astype(np.float64)
    counts = np.einsum("aci,bcj->ijab", states, states) + smoothing
    return counts / counts.sum(axis=(2, 3), keepdims=True)


def mutual_information(data: np.ndarray, smoothing: float) -> np.ndarray:
    joint = joint_tables(data, smoothing)
    product = joint.sum(axis=3, keepdims=True) * joint.sum(axis=2, keepdims=True)
    terms = joint * np.log(np.where(joint > 0.0, joint / np.where(product > 0.0, product, 1.0), 1.0))
    return terms.sum(axis=(2, 3))


def edges(tree: BinaryTree) -> set[frozenset[int]]:
    return {frozenset((node, parent)) for node, parent in enumerate(tree.parent.tolist()) if parent >= 0}


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), smoothing=st.sampled_from([0.0, 0.5, 3.0]))
def test_it_is_the_maximum_spanning_tree(seed, smoothing) -> None:
    data = random_data(seed)
    tree = chow_liu_tree(csr_array(data), smoothing=smoothing)
    weight = mutual_information(data, smoothing)
    # csgraph takes 0 for no edge, hence the shift, which changes no order.
    shifted = np.triu(weight.max() + 1.0 - weight, k=1)
    best = minimum_spanning_tree(shifted).tocoo()
    found = edges(tree)
    assert len(found) == data.shape[1] - 1
    rows, columns = np.array([sorted(edge) for edge in found]).T
    pattern = coo_array((np.ones(len(rows)), (rows, columns)), shape=weight.shape)
    assert connected_components(pattern, directed=False)[0] == 1
    total = sum(weight[tuple(edge)] for edge in found)
    assert total == pytest.approx(weight[best.row, best.col].sum(), rel=1e-9)


@pytest.mark.parametrize("independence", [0.0, 0.4])
def test_tables_are_those_of_the_pairs(independence) -> None:
    data = random_data(3)
    tree = chow_liu_tree(data, smoothing=1.5, independence=independence)
    joint = joint_tables(data, 1.5)
    marginal = joint[:, 0].sum(axis=-1)
    for node, parent in enumerate(tree.parent.tolist()):
        if parent < 0:
            expected = np.tile(marginal[node], (2, 1))
        else:
            mixed = (1.0 - independence) * joint[parent, node] + independence * np.outer(
                marginal[parent], marginal[node]
            )
            expected = mixed / mixed.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(tree.log_conditional[node].exp().numpy(), expected, rtol=1e-12)
    # The marginals of the tree are those of the data, whatever its edges say.
    unknown = torch.full((1, tree.n_nodes), -1)
    np.testing.assert_allclose(tree.sum_product(unknown).log_marginals[0].exp().numpy(), marginal, rtol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_the_tree_that_data_came_from_is_found(seed) -> None:
    random = Random(seed)
    n_nodes = 15
    parent = torch.tensor([-1, *(random.randrange(node) for node in range(1, n_nodes))])
    share = torch.tensor([[random.uniform(0.1, 0.3), random.uniform(0.6, 0.9)] for _ in range(n_nodes)])
    share = share.double()
    share[0] = 0.4
    truth = BinaryTree(parent, torch.stack([1.0 - share, share], dim=-1).log())
    data = sampled(truth, 20_000, seed)
    learned = chow_liu_tree(csr_array(data.numpy()))
    assert edges(learned) == edges(truth)
    # Probabilities of the pairs, within 4.5 standard errors: the roots, and so the directions, may differ.
    for one, other in itertools.pairwise(range(n_nodes)):
        evidence = torch.full((1, n_nodes), -1)
        evidence[0, [one, other]] = 1
        probability = truth.sum_product(evidence).log_evidence.exp()
        error = (probability * (1.0 - probability) / 20_000).sqrt()
        found = learned.sum_product(evidence).log_evidence.exp()
        # A path's product of tables has no more than a few times the error of a pair's count.
        assert float((found - probability).abs()) < 4.5 * 3.0 * float(error)


def test_ties_as_documented() -> None:
    # Four copies of one variable: all pairs tie. The first is the root, and all join it.
    column = np.array([1, 1, 0, 0])
    assert chow_liu_tree(np.tile(column[:, None], (1, 4))).parent.tolist() == [-1, 0, 0, 0]


def test_cases_a_few_at_a_time(monkeypatch) -> None:
    data = csr_array(random_data(5))
    whole = chow_liu_tree(data)
    monkeypatch.setattr(chow_liu_module, "_CASES_AT_A_TIME", 7)
    parts = chow_liu_tree(data)
    assert torch.equal(whole.parent, parts.parent)
    assert torch.equal(whole.log_conditional, parts.log_conditional)


def test_values_duplicates_and_explicit_zeros_do_not_matter() -> None:
    data = random_data(6)
    expected = chow_liu_tree(data)
    rows, columns = np.nonzero(data)
    untidy = coo_array(
        (
            np.concatenate([np.full(len(rows), 2.5), np.ones(len(rows)), np.zeros(5)]),
            (
                np.concatenate([rows, rows, np.arange(5)]),
                np.concatenate([columns, columns, np.argmin(data[:5], axis=1)]),
            ),
        ),
        shape=data.shape,
    )
    found = chow_liu_tree(untidy)
    assert torch.equal(found.parent, expected.parent)
    assert torch.equal(found.log_conditional, expected.log_conditional)


def test_variables_that_are_always_alike() -> None:
    data = np.array([[1, 0, 1], [1, 0, 0], [1, 0, 1]])
    tree = chow_liu_tree(data, smoothing=0.0)
    marginals = tree.sum_product(torch.full((1, 3), -1)).log_marginals[0, :, 1].exp()
    np.testing.assert_allclose(marginals.numpy(), [1.0, 0.0, 2 / 3], rtol=1e-12)
    assert chow_liu_tree(data[:, :1]).parent.tolist() == [-1]


@pytest.mark.parametrize(
    "arguments",
    [{"smoothing": -1.0}, {"smoothing": float("nan")}, {"independence": 1.0}, {"independence": -0.1}],
)
def test_settings_out_of_range(arguments) -> None:
    with pytest.raises(UserError, match=next(iter(arguments))):
        chow_liu_tree(random_data(0), **arguments)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_no_data(shape) -> None:
    with pytest.raises(UserError, match="data"):
        chow_liu_tree(np.zeros(shape))


@pytest.mark.parametrize("wrong", [np.nan, -1.0])
def test_numbers_that_are_no_observation(wrong) -> None:
    with pytest.raises(UserError, match="data: expected 0, or more"):
        chow_liu_tree(np.array([[1.0, 0.0], [wrong, 1.0]]))


def test_weights_and_stored_zeros_count_as_what_they_are() -> None:
    dense = np.random.default_rng(0).random((40, 6)) < 0.4
    weighted = csr_array(dense * 3.5)
    weighted.data[0] = 0.0
    plain = weighted.toarray() != 0
    found, expected = chow_liu_tree(weighted), chow_liu_tree(plain.astype(int))
    assert found.parent.tolist() == expected.parent.tolist()
    assert torch.equal(found.log_conditional, expected.log_conditional)
