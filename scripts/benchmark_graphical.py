"""Measure inference on graphs against pgmpy's, and how its cost grows; print tables, write JSON.

    pip install -e '.[bench]'
    python scripts/benchmark_graphical.py --networks FOLDER --ratings dataset=ml-1m --output graphical.json

tree      All marginals of a random tree of 200 variables of 4 states: ``sum_product``, of a graph asked before, and of
          one that is new.
child     All marginals of the network ``child`` under 100 evidence sets: ``junction_tree``, all at once, compiling
          included.
agree     The largest difference of a marginal on every network of the folder under random evidence, against pgmpy's
          variable elimination, for junction tree, variable elimination, and loopy propagation where it converges.
growth    Seconds for all marginals of trees of 10^2 to 10^5 variables.
models    Seconds to fit the recommenders that are graphs, and EASE, on the training users of a split, and to score 600
          held-out users.

pgmpy runs in a process of its own, its queries one after the other; the better of its variable elimination and its
belief propagation counts. Starting Python and reading the file are not timed. Measure on an idle machine.
"""

from __future__ import annotations

import argparse
import datetime as dt
import functools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import hydra
import scipy.sparse
import torch
from machine import describe_machine
from peer_split import read_split
from rich.console import Console
from rich.table import Table as RichTable

from recsys_vae.atomic import atomic_path
from recsys_vae.cli.config import compose_config
from recsys_vae.errors import UserError
from recsys_vae.graphical import (
    BayesianNetwork,
    SumProduct,
    Table,
    junction_tree,
    loopy_belief_propagation,
    sum_product,
    variable_elimination,
)
from recsys_vae.graphical.bif import write_bif

SECTIONS = ("tree", "child", "agree", "growth", "models")
MODELS = ("chow_liu", "ising", "gmrf", "ease")
METHODS = ("variable_elimination", "belief_propagation")


def random_tree(n_variables: int, n_states: int, seed: int, *, chain: bool = False) -> BayesianNetwork:
    """Each variable below a random earlier one, or below the one before it."""
    random = Random(seed)  # noqa: S311
    generator = torch.Generator().manual_seed(seed)
    names = [f"v{number}" for number in range(n_variables)]
    laws = []
    for number, name in enumerate(names):
        parents = [] if not number else [names[number - 1 if chain else random.randrange(number)]]
        table = torch.rand([n_states] * (len(parents) + 1), generator=generator, dtype=torch.float64)
        laws.append(Table(name, parents, table / table.sum(dim=-1, keepdim=True)))
    states = [f"s{state}" for state in range(n_states)]
    return BayesianNetwork(dict.fromkeys(names, states), laws)


def random_cases(network: BayesianNetwork, n_cases: int, n_observed: int, seed: int) -> list[dict[str, str]]:
    """Evidence that is possible: parts of ancestral draws."""
    from recsys_vae.graphical import ancestral_sample

    draws = ancestral_sample(network, n_cases, seed=seed)
    random = Random(seed)  # noqa: S311
    cases = []
    for case in range(n_cases):
        names = random.sample(list(network.states), n_observed)
        cases.append({name: str(network.states[name][int(draws[name][case])]) for name in names})
    return cases


def as_batch(cases: list[dict[str, str]]) -> dict[str, list[str | None]]:
    """The cases in the form that our functions take all at once."""
    names = sorted({name for case in cases for name in case})
    return {name: [case.get(name) for case in cases] for name in names}


def timed(function: Any, repeats: int = 5, at_least: float = 1.0) -> tuple[float, Any]:
    """Median seconds of some calls, that take so many seconds together, after one that warms up; and the answer."""
    answer = function()
    seconds: list[float] = []
    while len(seconds) < repeats or sum(seconds) < at_least:
        began = time.perf_counter()
        answer = function()
        seconds.append(time.perf_counter() - began)
    return sorted(seconds)[len(seconds) // 2], answer


def peer(
    python: Path, network: Path, cases: list[dict[str, str]], method: str, limit: float
) -> dict[str, Any] | None:
    """What pgmpy says, and how long it took; none where it has not come to its first query after the limit."""
    with tempfile.TemporaryDirectory() as folder:
        given, output = Path(folder) / "cases.json", Path(folder) / "answer.json"
        given.write_text(json.dumps(cases))
        script = Path(__file__).with_name("pgmpy_peer.py")
        command = [str(python), "-W", "ignore", str(script), str(network), str(given), str(output)]
        command += ["--method", method, "--limit", str(limit)]
        try:
            done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=limit + 60.0)
        except subprocess.TimeoutExpired:
            return None
        if done.returncode:
            raise UserError(f"pgmpy: {method} failed: {done.stderr.strip().splitlines()[-1]}")
        return dict(json.loads(output.read_text()))


def largest_difference(found: Any, expected: list[dict[str, dict[str, float]]]) -> float:
    """Over cases, variables and states."""
    worst = 0.0
    for case, marginals in enumerate(expected):
        for name, law in marginals.items():
            ours = found.marginal(name, case)
            worst = max(worst, *(abs(ours[state] - probability) for state, probability in law.items()))
    return worst


def against_peer(
    options: argparse.Namespace,
    path: Path,
    network: BayesianNetwork,
    cases: list[dict[str, str]],
    ours: Callable[[], Any],
) -> dict[str, Any]:
    """Seconds of both, their ratio, and the largest difference of a marginal."""
    seconds, found = timed(ours)
    by_method = {}
    for method in METHODS:
        answer = peer(options.pgmpy, path, cases, method, options.limit)
        if answer is not None:
            by_method[method] = answer
    if not by_method:
        raise UserError(f"pgmpy: no method came to a query within {options.limit:g} s; give more --limit")
    best = min(by_method.values(), key=lambda record: (not record["finished"], record["seconds"]))
    return {
        "variables": len(network.states),
        "cases": len(cases),
        "seconds": seconds,
        "pgmpy_seconds": {method: record["seconds"] for method, record in by_method.items()},
        "pgmpy_finished": {method: record["finished"] for method, record in by_method.items()},
        "pgmpy": best["version"],
        "times": best["seconds"] / seconds,
        "largest_difference": largest_difference(found, best["marginals"]),
    }


def measure_tree(options: argparse.Namespace) -> dict[str, Any]:
    """A tree of 200 variables of 4 states: without evidence, where pgmpy needs only ancestors, and with 20 observed."""
    network = random_tree(200, 4, options.seed)
    record: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tree.bif"
        write_bif(network, path)
        for n_observed in (0, 20):
            case = random_cases(network, 1, n_observed, options.seed)[0]
            ask = functools.partial(sum_product, network, case)
            found = against_peer(options, path, network, [case], functools.partial(_first, ask))
            found["seconds_of_a_first_question"] = first_question(options.seed, case)
            record[f"{n_observed} observed"] = found
    return record


def first_question(seed: int, case: dict[str, str], repeats: int = 25) -> float:
    """Median seconds where the graph has not been asked before and is compiled."""
    seconds = []
    for _ in range(repeats):
        network = random_tree(200, 4, seed)
        began = time.perf_counter()
        sum_product(network, case)
        seconds.append(time.perf_counter() - began)
    return sorted(seconds)[len(seconds) // 2]


def _first(ask: Callable[[], Any]) -> _Unbatched:
    return _Unbatched(ask())


class _Unbatched:
    """One case read as the first of a batch."""

    def __init__(self, marginals: Any) -> None:
        self._marginals = marginals

    def marginal(self, name: str, case: int) -> dict[Any, float]:
        """Of the only case there is."""
        return dict(self._marginals.marginal(name))


def measure_child(options: argparse.Namespace) -> dict[str, Any]:
    """The network child under 100 evidence sets of four variables each."""
    path = options.networks / "child.bif"
    network = BayesianNetwork.from_bif(path)
    cases = random_cases(network, 100, 4, options.seed)
    evidence = as_batch(cases)
    return against_peer(options, path, network, cases, lambda: junction_tree(network, evidence))


def measure_agreement(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every network of the folder under ten evidence sets."""
    rows = []
    for path in sorted(options.networks.glob("*.bif")):
        network = BayesianNetwork.from_bif(path)
        cases = random_cases(network, 10, max(1, len(network.states) // 5), options.seed)
        answer = peer(options.pgmpy, path, cases, "variable_elimination", options.limit)
        if answer is None:
            raise UserError(f"pgmpy: no answer on {path.name} within {options.limit:g} s; give more --limit")
        expected = answer["marginals"]
        evidence = as_batch(cases)
        by_tree = junction_tree(network, evidence)
        loopy = loopy_belief_propagation(network, evidence, damping=0.3)
        own = [_Unbatched(variable_elimination(network, case)) for case in cases]
        rows.append(
            {
                "network": path.stem,
                "variables": len(network.states),
                "junction_tree": largest_difference(by_tree, expected),
                "variable_elimination": max(
                    largest_difference(found, [answer]) for found, answer in zip(own, expected, strict=True)
                ),
                "loopy_belief_propagation": largest_difference(loopy, expected),
                "loopy_converged": int(loopy.converged.sum()),
            }
        )
    return rows


def measure_growth(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Random trees and chains of growing size, 4 states."""
    rows = []
    for chain in (False, True):
        for n_variables in (100, 1_000, 10_000, 100_000):
            network = random_tree(n_variables, 4, options.seed, chain=chain)
            began = time.perf_counter()
            compiled = SumProduct(network)
            middle = time.perf_counter()
            found = compiled()
            seconds = time.perf_counter() - middle
            assert abs(float(found.log_evidence)) < 1e-6  # a network's total probability is 1
            rows.append(
                {
                    "graph": "chain" if chain else "random tree",
                    "variables": n_variables,
                    "compile_seconds": middle - began,
                    "seconds": seconds,
                    "microseconds_a_variable": 1e6 * seconds / n_variables,
                }
            )
    return rows


def measure_models(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Fitting, and scoring of 600 users in batches of 100."""
    split = read_split(options.ratings, options.seed)
    n_users, n_items = split.train.matrix.shape
    held_out = scipy.sparse.vstack([split.test.history, split.validation.history]).tocsr()[:600]
    rows = []
    for name in MODELS:
        config = compose_config("train", [f"model={name}"]).model
        began = time.perf_counter()
        model = hydra.utils.instantiate(config, n_items=n_items).fit(split.train.matrix)
        fitted = time.perf_counter() - began
        batches = [scipy.sparse.csr_array(held_out[s : s + 100]) for s in range(0, held_out.shape[0], 100)]
        scored, _ = timed(lambda batches=batches, model=model: [model.score(b) for b in batches])
        rows.append(
            {
                "model": name,
                "training users": n_users,
                "items": n_items,
                "fit_seconds": fitted,
                "users_scored": held_out.shape[0],
                "score_seconds": scored,
            }
        )
    return rows


def show(report: dict[str, Any], console: Console) -> None:
    """Tables of what was measured."""
    head = RichTable(title=f"{report['machine']}, {report['threads']} threads, {report['date']}")
    for name in ("measured", "ours", "pgmpy", "times", "largest difference"):
        head.add_column(name, justify="left" if name == "measured" else "right")
    rows = {f"all marginals, tree of 200 variables, {n}": r for n, r in report.get("tree", {}).items()}
    if "child" in report:
        rows["all marginals of child, 100 evidence sets"] = report["child"]
    for title, row in rows.items():
        finished = row["pgmpy_finished"]
        theirs = min(row["pgmpy_seconds"], key=lambda m: (not finished[m], row["pgmpy_seconds"][m]))
        bound = "" if finished[theirs] else "> "
        first = row.get("seconds_of_a_first_question")
        ours = f"{1e3 * row['seconds']:.1f} ms" + (f" (at first {1e3 * first:.1f})" if first else "")
        head.add_row(
            title,
            ours,
            f"{bound}{row['pgmpy_seconds'][theirs]:.2f} s ({theirs})",
            f"{bound}{row['times']:.0f}",
            f"{row['largest_difference']:.1e}",
        )
    console.print(head)
    for section in ("agree", "growth", "models"):
        if rows := report.get(section):
            table = RichTable(title=section)
            for name in rows[0]:
                table.add_column(name.replace("_", " "), justify="right")
            for row in rows:
                table.add_row(*(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()))
            console.print(table)


def main() -> int:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="JSON")
    parser.add_argument(
        "--pgmpy",
        type=Path,
        default=Path(sys.executable),
        help="python of an environment with pgmpy; this one if not given",
    )
    parser.add_argument(
        "--ratings",
        nargs="+",
        default=[],
        help="overrides of recsys-vae train that name the ratings; left out: embedded ones",
    )
    parser.add_argument("--networks", type=Path, help="folder of .bif files, child.bif among them")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--limit", type=float, default=300.0, help="seconds for a method of pgmpy")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    for section in options.sections:
        needed = {"tree": ["pgmpy"], "child": ["pgmpy", "networks"], "agree": ["pgmpy", "networks"]}
        for name in needed.get(section, []):
            if getattr(options, name) is None or not getattr(options, name).exists():
                parser.error(f"--{name}: section {section} expects one that exists")
    torch.set_num_threads(options.threads)
    report: dict[str, Any] = {
        "machine": describe_machine(),
        "threads": options.threads,
        "date": dt.date.today().isoformat(),
        "seed": options.seed,
    }
    measures = {
        "tree": measure_tree,
        "child": measure_child,
        "agree": measure_agreement,
        "growth": measure_growth,
        "models": measure_models,
    }
    for section in options.sections:
        report[section] = measures[section](options)
        print(f"measured: {section}", file=sys.stderr)
        with atomic_path(options.output) as temporary:
            temporary.write_text(json.dumps(report, indent=1))
    show(report, Console(width=170))
    return 0


if __name__ == "__main__":
    sys.exit(main())
