"""The benchmark of graphs measures what it says, sees a wrong answer, and runs through without a peer."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from types import ModuleType

import pytest

from recsys_vae.graphical import junction_tree, sum_product

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return importlib.import_module("benchmark_graphical")


def test_evidence_is_possible_and_has_the_size_asked_for(benchmark) -> None:
    network = benchmark.random_tree(30, 3, seed=2)
    cases = benchmark.random_cases(network, 20, 5, seed=3)
    assert [len(case) for case in cases] == [5] * 20
    found = sum_product(network, benchmark.as_batch(cases))
    assert bool(found.log_evidence.isfinite().all())
    alone = [float(sum_product(network, case).log_evidence) for case in cases]
    assert found.log_evidence.tolist() == pytest.approx(alone, abs=1e-10)


def test_a_wrong_answer_is_seen(benchmark) -> None:
    network = benchmark.random_tree(10, 3, seed=2)
    cases = benchmark.random_cases(network, 2, 2, seed=3)
    found = junction_tree(network, benchmark.as_batch(cases))
    answers = [{name: found.marginal(name, case) for name in network.states} for case in range(2)]
    assert benchmark.largest_difference(found, answers) == 0.0
    law = answers[1]["v4"]
    state = next(iter(law))
    law[state] += 0.25
    assert benchmark.largest_difference(found, answers) == pytest.approx(0.25)


def test_a_chain_is_a_chain(benchmark) -> None:
    assert benchmark.random_tree(4, 2, seed=0, chain=True).parents["v3"] == ("v2",)


def test_models_are_measured_on_the_embedded_ratings(benchmark) -> None:
    rows = benchmark.measure_models(argparse.Namespace(ratings=["dataset=tiny"], seed=1))
    assert [row["model"] for row in rows] == list(benchmark.MODELS)
    assert all(row["fit_seconds"] > 0 and row["score_seconds"] > 0 for row in rows)


def test_it_prints_and_writes(benchmark, tmp_path, capsys, monkeypatch) -> None:
    output = tmp_path / "report.json"
    monkeypatch.setattr(benchmark, "measure_growth", lambda options: [{"graph": "chain", "variables": 100}])
    monkeypatch.setattr(
        sys, "argv", ["benchmark_graphical.py", "--sections", "growth", "--output", str(output)]
    )
    assert benchmark.main() == 0
    assert json.loads(output.read_text())["growth"] == [{"graph": "chain", "variables": 100}]
    assert "chain" in capsys.readouterr().out


def test_a_folder_that_is_missing(benchmark, tmp_path, capsys, monkeypatch) -> None:
    given = ["benchmark_graphical.py", "--sections", "child", "--output", str(tmp_path / "a.json")]
    monkeypatch.setattr(sys, "argv", given)
    with pytest.raises(SystemExit) as stopped:
        benchmark.main()
    assert stopped.value.code == 2
    assert "--networks" in capsys.readouterr().err
