"""Completions against every configuration with so many ones."""

from __future__ import annotations

from random import Random

import pytest
import torch
from forests import agreeing, enumerated, random_evidence, random_forest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_vae.errors import UserError
from recsys_vae.graphical import completion as completion_module
from recsys_vae.graphical.completion import most_probable_completion


@settings(max_examples=120, deadline=None)
@given(seed=st.integers(0, 2**32), zeros=st.booleans())
def test_completions_attain_the_enumerated_maximum(seed, zeros) -> None:
    random = Random(seed)
    tree = random_forest(random, zeros=zeros, max_nodes=9)
    evidence = random_evidence(random, tree)
    n_ones = random.randint(0, int((evidence < 0).sum(dim=1).min()))
    configurations, log_probability = enumerated(tree)
    laws = []
    for case in evidence:
        law = agreeing(configurations, log_probability, case)
        laws.append(law.masked_fill(configurations[:, case < 0].sum(dim=1) != n_ones, -torch.inf))
    if any(law.max() == -torch.inf for law in laws):
        with pytest.raises(UserError, match="contradiction"):
            most_probable_completion(tree, evidence, n_ones)
        return
    found = most_probable_completion(tree, evidence, n_ones)
    for case, law in enumerate(laws):
        attained = law[(configurations == found.values[case]).all(dim=1)]
        assert float((found.log_score[case] - law.max()).abs()) < 1e-10
        assert float((attained - law.max()).abs()) < 1e-10


def test_cases_in_blocks(monkeypatch) -> None:
    random = Random(3)
    tree = random_forest(random)
    evidence = torch.full((7, tree.n_nodes), -1)
    whole = most_probable_completion(tree, evidence, 1)
    monkeypatch.setattr(completion_module, "_BLOCK_ENTRIES", 8 * tree.n_nodes)
    torch.testing.assert_close(most_probable_completion(tree, evidence, 1), whole)


@pytest.mark.parametrize("n_ones", [-1, 3, True])
def test_more_ones_than_nodes(n_ones) -> None:
    tree = random_forest(Random(0), max_nodes=1)
    with pytest.raises(UserError, match="from 0 to 1"):
        most_probable_completion(tree, torch.tensor([[-1]]), n_ones)
