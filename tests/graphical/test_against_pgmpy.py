"""Marginals equal those of another author's variable elimination, where it is installed (extra ``bench``)."""

from __future__ import annotations

import warnings
from pathlib import Path
from random import Random

import pytest

from recsys_vae.graphical import BayesianNetwork, ancestral_sample, junction_tree, variable_elimination

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("pgmpy", reason="pgmpy, of the extra bench, is not installed")
    from pgmpy.inference import VariableElimination
    from pgmpy.readwrite import BIFReader

pytestmark = pytest.mark.filterwarnings("ignore")
NETWORKS = Path(__file__).parents[3] / "shared" / "data" / "networks"


@pytest.mark.skipif(not NETWORKS.exists(), reason="the standard networks are not on this machine")
@pytest.mark.parametrize("name", ["asia", "cancer", "child", pytest.param("water", marks=pytest.mark.slow)])
def test_marginals_under_random_evidence(name) -> None:
    path = NETWORKS / f"{name}.bif"
    network = BayesianNetwork.from_bif(path)
    theirs = VariableElimination(BIFReader(str(path)).get_model())
    random = Random(7)
    draws = ancestral_sample(network, 5, seed=7)
    for case in range(5):
        observed = random.sample(list(network.states), len(network.states) // 5 + 1)
        evidence = {v: network.states[v][int(draws[v][case])] for v in observed}
        by_tree = junction_tree(network, evidence)
        by_elimination = variable_elimination(network, evidence)
        for variable in network.states:
            if variable in evidence:
                continue
            answer = theirs.query([variable], evidence=evidence, show_progress=False)
            expected = dict(zip(answer.state_names[variable], answer.values.tolist(), strict=True))
            assert by_tree.marginal(variable) == pytest.approx(expected, abs=1e-6)
            assert by_elimination.marginal(variable) == pytest.approx(expected, abs=1e-6)
