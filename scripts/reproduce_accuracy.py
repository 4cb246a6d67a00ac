"""Train every model on several splits of a dataset, and RecBole's MultiVAE on the same ones; print the table.

    python scripts/reproduce_accuracy.py --output accuracy.json                       # the embedded ml-latest-small
    python scripts/reproduce_accuracy.py dataset=table dataset.path=../shared/data/ml-1m.parquet \\
        --seeds 1 2 3 4 5 --recbole ~/.cache/recbole --output ml-1m.json

Each of ours is one `recsys-vae train` with its defaults, in a process of its own, and the figures are those of its
metrics.json. The error is the standard error of the mean over the splits. EASE is computed a second time in NumPy
(numpy_ease.py, numpy_metrics.py) from the same matrices. Figures that are already in the output are kept, so an
interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from benchmark_training import run_peer
from machine import describe_machine
from numpy_ease import ease_scores
from numpy_metrics import NDCG_AT, RECALL_AT, ranking_metrics, summary
from peer_environment import peer_python
from peer_split import read_split, write_peer_split
from peer_trial import Options, System, run_ours

from recsys_vae.cli.config import compose_config
from recsys_vae.interactions import Split

MODELS = ("mult_vae", "mult_dae", "ppca", "ease", "gmrf", "ising", "chow_liu", "item_knn", "popularity")
METRICS = (f"ndcg@{NDCG_AT}", *(f"recall@{k}" for k in RECALL_AT))
Figures = dict[str, Any]


def ours(model: str, overrides: list[str], split: Split, seed: int, threads: int) -> Figures:
    """Train by the command line; return the test means, the validation score and the seconds."""
    system = System(model, model, ([],))
    record = run_ours(system, [], split, seed, Options(overrides, Path(), None, threads))
    per_user = record.pop("per_user").loc[lambda table: table["n_target"] > 0, list(METRICS)]
    errors = per_user.sem()
    return {
        "test": {m: {"mean": float(per_user[m].mean()), "stderr": float(errors[m])} for m in METRICS},
        "n_test_users": len(per_user),
        "split_sha256": split.sha256,
        **{key: record[key] for key in ("validation", "best_epoch", "seconds")},
    }


def numpy_ease(split: Split) -> Figures:
    """EASE at the default regularisation, from scores to metrics without this package."""
    l2 = float(compose_config("train", ["model=ease"]).model.l2)
    scores = ease_scores(split.train.matrix, split.test.history, l2)
    history, target = (sp.csr_array(part) for part in (split.test.history, split.test.target))
    return {"test": summary(ranking_metrics(scores, history, target)), "split_sha256": split.sha256}


def recbole(split: Split, python: Path, epochs: int, threads: int) -> Figures:
    """RecBole's MultiVAE with the paper's settings, its best epoch on validation."""
    with tempfile.TemporaryDirectory() as name:
        folder = write_peer_split(split, Path(name))
        settings = ("--annealing", "paper", "--epochs", str(epochs), "--threads", str(threads))
        report = run_peer(python, folder, "accuracy", *settings)
    return {
        "test": report["test"],
        "validation": report["best"][METRICS[0]],
        "best_epoch": report["best"]["epoch"],
        "seconds": {"training_epochs": report["seconds_training"]},
        "split_sha256": split.sha256,
    }


def markdown(results: dict[str, dict[str, Figures]]) -> str:
    """One row a model: the mean over splits and its standard error (one split: the error over its users)."""
    lines = ["| model | " + " | ".join(METRICS) + " |", "| --- |" + " --- |" * len(METRICS)]
    for model, by_seed in results.items():
        cells = []
        for metric in METRICS:
            means = np.array([figures["test"][metric]["mean"] for figures in by_seed.values()])
            error = (
                means.std(ddof=1) / np.sqrt(means.size)
                if means.size > 1
                else next(iter(by_seed.values()))["test"][metric]["stderr"]
            )
            cells.append(f"{means.mean():.4f} ± {error:.4f}")
        lines.append(f"| {model} ({len(by_seed)} splits) | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    """Fill in what the output lacks; exit code 1 when programs disagree about what the split is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("overrides", nargs="*", help="of recsys-vae train, such as dataset=ml-100k")
    parser.add_argument("--output", type=Path, required=True, help="JSON")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--recbole", type=Path, help="folder of RecBole's environment; left out: no RecBole")
    parser.add_argument("--recbole-epochs", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    report: dict[str, Any] = {"overrides": options.overrides, "machine": describe_machine(), "results": {}}
    if options.output.exists():
        report = json.loads(options.output.read_text())
        if report["overrides"] != options.overrides:
            parser.error(f"--output: {options.output} is of {report['overrides']}; expected a new file")
    results = report["results"]
    python = peer_python("recbole", options.recbole) if options.recbole else None

    def fill(name: str, seed: int, compute: Callable[[], Figures]) -> None:
        by_seed = results.setdefault(name, {})
        if str(seed) in by_seed:
            return
        began = time.perf_counter()
        by_seed[str(seed)] = compute()
        partial = options.output.with_name(f".{options.output.name}.partial")
        partial.write_text(json.dumps(report, indent=2) + "\n")
        partial.replace(options.output)
        mean = by_seed[str(seed)]["test"][METRICS[0]]["mean"]
        seconds = time.perf_counter() - began
        print(f"{name}, seed {seed}: {METRICS[0]} {mean:.4f}, {seconds:.0f} s", file=sys.stderr, flush=True)

    for seed in options.seeds:
        split = read_split(options.overrides, seed)
        for model in options.models:
            fill(
                model,
                seed,
                lambda model=model, split=split, seed=seed: ours(
                    model, options.overrides, split, seed, options.threads
                ),
            )
        if "ease" in options.models:
            fill("ease in NumPy", seed, lambda split=split: numpy_ease(split))
        if python is not None:
            fill(
                "RecBole MultiVAE",
                seed,
                lambda split=split: recbole(split, python, options.recbole_epochs, options.threads),
            )
        digests = {by_seed[str(seed)]["split_sha256"] for by_seed in results.values() if str(seed) in by_seed}
        if len(digests) > 1:
            print(f"seed {seed}: expected one split, got {sorted(digests)}", file=sys.stderr)
            return 1
    print(report["machine"])
    print(markdown(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
