"""Trees of binary variables against sums over every configuration, and against the graphs of named variables."""

from __future__ import annotations

from random import Random

import pytest
import torch
from forests import agreeing, enumerated, random_evidence, random_forest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_vae.errors import UserError
from recsys_vae.graphical import pairwise_tree as pairwise_tree_module
from recsys_vae.graphical.pairwise_tree import BinaryTree
from recsys_vae.graphical.sum_product import sum_product

HALF = torch.full((2, 2), 0.5, dtype=torch.float64).log()


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32), zeros=st.booleans())
def test_marginals_and_modes_are_those_of_enumeration(seed, zeros) -> None:
    random = Random(seed)
    tree = random_forest(random, zeros=zeros)
    evidence = random_evidence(random, tree)
    configurations, log_probability = enumerated(tree)
    laws = [agreeing(configurations, log_probability, case) for case in evidence]
    if any(law.max() == -torch.inf for law in laws):
        for method in (tree.sum_product, tree.max_sum):
            with pytest.raises(UserError, match="contradiction"):
                method(evidence)
        return
    marginals, mode = tree.sum_product(evidence), tree.max_sum(evidence)
    for case, law in enumerate(laws):
        total = law.logsumexp(dim=0)
        assert float((marginals.log_evidence[case] - total).abs()) < 1e-10
        expected = torch.stack(
            [(law - total).exp()[configurations[:, node] == 1].sum() for node in range(tree.n_nodes)]
        )
        torch.testing.assert_close(marginals.log_marginals[case, :, 1].exp(), expected, rtol=0.0, atol=1e-10)
        torch.testing.assert_close(
            marginals.log_marginals[case].exp().sum(dim=1), torch.ones(tree.n_nodes).double()
        )
        assert float((mode.log_score[case] - law.max()).abs()) < 1e-10
        attained = law[(configurations == mode.values[case]).all(dim=1)]
        assert float((attained - law.max()).abs()) < 1e-10
        assert bool(mode.unique[case]) == (int((law > law.max() - 1e-9).sum()) == 1)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_log_odds_are_those_without_the_node_s_own_evidence(seed) -> None:
    random = Random(seed)
    tree = random_forest(random)
    evidence = random_evidence(random, tree)
    configurations, log_probability = enumerated(tree)
    log_odds = tree.log_odds_given_others(evidence)
    for case in range(len(evidence)):
        for node in range(tree.n_nodes):
            others = evidence[case].clone()
            others[node] = -1
            law = agreeing(configurations, log_probability, others)
            is_one = configurations[:, node] == 1
            expected = law[is_one].logsumexp(dim=0) - law[~is_one].logsumexp(dim=0)
            assert float((log_odds[case, node] - expected).abs()) < 1e-9


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_the_network_of_a_tree_is_the_same_law(seed) -> None:
    random = Random(seed)
    tree = random_forest(random)
    evidence = random_evidence(random, tree)
    names = [f"v{node}" for node in range(tree.n_nodes)]
    by_name = sum_product(
        tree.bayesian_network(names), {name: evidence[:, node] for node, name in enumerate(names)}
    )
    found = tree.sum_product(evidence)
    torch.testing.assert_close(by_name.log_evidence, found.log_evidence, rtol=0.0, atol=1e-10)
    for node, name in enumerate(names):
        torch.testing.assert_close(
            by_name.log_marginals[name].exp(), found.log_marginals[:, node].exp(), rtol=0.0, atol=1e-10
        )


def test_cases_in_blocks(monkeypatch) -> None:
    random = Random(1)
    tree = random_forest(random, max_nodes=8)
    evidence = random_evidence(random, tree, n_cases=11)
    methods = (tree.sum_product, tree.max_sum, tree.log_odds_given_others)
    whole = [method(evidence) for method in methods]
    monkeypatch.setattr(pairwise_tree_module, "_BLOCK_ENTRIES", 4 * tree.n_nodes)
    parts = [method(evidence) for method in methods]
    torch.testing.assert_close(parts, whole)


def test_a_long_chain_keeps_its_digits() -> None:
    # A fair coin that turns over with probability q: after n steps, it is as at first with (1 + (1 - 2q)^n) / 2.
    n_nodes, q = 3000, 1e-3
    turns = torch.tensor([[1.0 - q, q], [q, 1.0 - q]], dtype=torch.float64)
    tables = turns.log().repeat(n_nodes, 1, 1)
    tables[0] = HALF
    tree = BinaryTree(torch.arange(n_nodes) - 1, tables)
    evidence = torch.full((1, n_nodes), -1)
    evidence[0, -1] = 1
    at_first = tree.sum_product(evidence).log_marginals[0, 0, 1].exp()
    assert float(at_first) == pytest.approx((1.0 + (1.0 - 2.0 * q) ** (n_nodes - 1)) / 2.0, abs=1e-12)


def test_ties_go_to_zero_and_are_told() -> None:
    tree = BinaryTree(torch.tensor([-1, 0]), torch.stack([HALF, HALF]))
    mode = tree.max_sum(torch.tensor([[-1, -1], [1, 1]]))
    assert mode.values.tolist() == [[0, 0], [1, 1]]
    assert mode.unique.tolist() == [False, True]


@pytest.mark.parametrize(
    ("parent", "table", "message"),
    [
        ([1, 0], [[0.5, 0.5]] * 2, "cycle"),
        ([-1, 2], [[0.5, 0.5]] * 2, "below 2"),
        ([-1, 0], [[0.5, 0.5], [0.5, 0.6]], "came 1.1 for node 0 given state 1"),
        ([-1, 0], [[0.5, 0.5], [0.4, 0.6]], "both rows of a root"),
    ],
)
def test_what_is_no_tree(parent, table, message) -> None:
    tables = torch.tensor([table, table], dtype=torch.float64).log()
    with pytest.raises(UserError, match=message):
        BinaryTree(torch.tensor(parent), tables)


def test_evidence_that_fits_no_node() -> None:
    tree = BinaryTree(torch.tensor([-1, 0]), torch.stack([HALF, HALF]))
    with pytest.raises(UserError, match="2 columns"):
        tree.sum_product(torch.zeros(1, 3, dtype=torch.int64))
    with pytest.raises(UserError, match="came 0 to 2"):
        tree.sum_product(torch.tensor([[0, 2]]))


def test_a_contradiction_is_named() -> None:
    certain = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).log()
    tree = BinaryTree(torch.tensor([-1, 0]), torch.stack([HALF, certain]))
    with pytest.raises(UserError, match=r"0=0, 1=1 \(case 1\)"):
        tree.sum_product(torch.tensor([[0, 0], [0, 1]]))
    with pytest.raises(UserError, match="above 0"):
        tree.log_odds_given_others(torch.tensor([[0, 0]]))
