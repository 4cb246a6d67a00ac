"""Measure training and evaluation against their floor and against RecBole's MultiVAE; print a table, write JSON.

    python scripts/benchmark_training.py ../shared/data/ml-1m.parquet --recbole ~/.cache/recbole --output benchmark.json

epoch     An epoch of Mult-VAE through the trainer that `recsys-vae train` uses (batch 500, the paper's layers), and
          the floor: the bare matrix products of that epoch, timed between the epochs.
peer      RecBole's MultiVAE class on the same users, batch and layers: training only; and as its user gets it, with
          its own trainer and evaluation, at its own evaluation batch and at a large one.
accuracy  Seconds until validation NDCG@100 reaches the best that RecBole's MultiVAE ever reaches on this split: ours
          with the defaults of `recsys-vae train`, RecBole's with the paper's settings.
ranking   Full-ranking evaluation of 600 users, metrics included, against the bare scoring product and `torch.topk`.
scale     `recsys-vae train` on a made-up dataset of MovieLens-20M's shape: peak memory, and an epoch against its floor.

RecBole's environment (1.6 GB) is made in the folder given by --recbole unless it is there. Measure on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe_machine
from numpy_metrics import NDCG_AT
from peer_environment import peer_python
from peer_split import write_peer_split
from rich.console import Console
from rich.table import Table
from training_floor import TrainingFloor

from recsys_vae.cli.config import compose_config
from recsys_vae.cli.runtime import quiet_lightning
from recsys_vae.cli.stages import build, filter_ratings, load_ratings, split_interactions
from recsys_vae.full_ranking import evaluate_full_ranking
from recsys_vae.interactions import HeldOut, Split
from recsys_vae.interactions.datamodule import HistoryDataModule
from recsys_vae.models import MultVAE
from recsys_vae.training.trainer import supports_fast_bfloat16

SCRIPTS = Path(__file__).parent
SECTIONS = ("epoch", "peer", "accuracy", "ranking", "scale")
MONITOR = f"ndcg@{NDCG_AT}"
PAPER_BATCH = 500
# What an epoch may be run with: as it comes; in full float32 whatever the CPU has; with the softmax estimated from a
# fifth of the items; with autocast to bfloat16.
DEFAULT, FULL, SAMPLED, BF16 = "as it comes", "full products", "item_share=0.2", "bf16-mixed"
VARIANTS = {
    DEFAULT: (),
    FULL: ("trainer.float32_matmul_precision=highest",),
    SAMPLED: ("trainer.objective.item_share=0.2",),
    BF16: ("trainer.precision=bf16-mixed",),
}
Row = tuple[str, str, str]


def read_split(path: Path, seed: int) -> Split:
    """Split as ``recsys-vae train dataset=table dataset.path=PATH seed=SEED`` does."""
    config = compose_config("train", ["dataset=table", f"dataset.path={path}", f"seed={seed}"])
    return split_interactions(config, filter_ratings(config, load_ratings(config)).interactions)


def train(
    split: Split, validate: Callable[[MultVAE], float], *overrides: str, seed: int = 1
) -> list[dict[str, float]]:
    """Train a fresh Mult-VAE by the command's own trainer; return its rows, one an epoch.

    ``validate`` is called after every epoch and its time is not in the row's ``seconds``.
    """
    quiet = ("trainer.progress_bar=false", "trainer.tensorboard=false")
    config = compose_config("train", [f"seed={seed}", *quiet, *overrides])
    trainer = build(config.trainer, progress_bar=False)
    model = build(config.model, n_items=split.train.n_items)
    rows: list[dict[str, float]] = []
    trainer.fit(
        model,
        HistoryDataModule(split.train.matrix, trainer.batch_size, seed),
        lambda candidate: {trainer.monitor: validate(candidate)},
        seed=seed,
        on_epoch=lambda row: rows.append(dict(row)),
    )
    return rows


def validation_score(split: Split) -> Callable[[MultVAE], float]:
    """The validation NDCG@100 of a model, as the command measures it."""
    counts = split.train.item_counts
    return lambda model: evaluate_full_ranking(model.score, split.validation, [MONITOR], counts).means[
        MONITOR
    ]


def measure_epoch(split: Split, epochs: int, variant: str) -> dict[str, Any]:
    """Seconds of our epoch and of its floor, alternately; medians after a first epoch that does not count."""
    floor = TrainingFloor(split.train.matrix, PAPER_BATCH)
    floor.run()
    floors: list[float] = []

    def between(_: MultVAE) -> float:
        floors.append(floor.seconds())
        return 0.0

    rows = train(
        split,
        between,
        *VARIANTS[variant],
        f"trainer.batch_size={PAPER_BATCH}",
        *(f"trainer.{name}={epochs + 1}" for name in ("max_epochs", "patience")),
    )
    ours = [row["seconds"] for row in rows[1:]]
    return {
        "seconds_per_epoch": statistics.median(ours),
        "floor_seconds": statistics.median(floors[1:]),
        "ratio_to_floor": statistics.median(np.divide(ours, floors[1:]).tolist()),
        "seconds_of_every_epoch": ours,
        "floor_of_every_epoch": floors[1:],
    }


def run_peer(python: Path, folder: Path, mode: str, *options: str) -> dict[str, Any]:
    """Run ``recbole_peer.py`` in RecBole's environment and return its report."""
    with tempfile.TemporaryDirectory() as name:
        output = Path(name) / "result.json"
        script = str(SCRIPTS / "recbole_peer.py")
        command = [str(python), "-W", "ignore", script, str(folder), "--mode", mode, "--output", str(output)]
        subprocess.run([*command, *options], check=True, stdout=subprocess.DEVNULL)
        return dict(json.loads(output.read_text()))


def measure_peer(split: Split, python: Path, folder: Path, epochs: int) -> dict[str, Any]:
    """Ours and RecBole's, one after the other twice over: training only, and with evaluation."""
    batch = f"trainer.batch_size={PAPER_BATCH}"
    length = [f"trainer.{name}={epochs + 1}" for name in ("max_epochs", "patience")]
    variants = [variant for variant in VARIANTS if variant != BF16 or supports_fast_bfloat16()]
    ours: dict[str, list[float]] = {variant: [] for variant in variants}
    whole: dict[str, list[float]] = {variant: [] for variant in variants}
    peer: list[float] = []
    everyone = holdout_of_training_users(split)
    counts = split.train.item_counts
    metrics = [MONITOR, f"recall@{NDCG_AT}"]
    for _ in range(2):
        for variant in variants:
            ends = [time.perf_counter()]

            def evaluate(model: MultVAE, ends: list[float] = ends) -> float:
                result = evaluate_full_ranking(model.score, everyone, metrics, counts)
                ends.append(time.perf_counter())
                return result.means[MONITOR]

            rows = train(split, evaluate, batch, *length, *VARIANTS[variant])
            ours[variant] += [row["seconds"] for row in rows[1:]]
            whole[variant] += np.diff(ends)[1:].tolist()
        peer += run_peer(python, folder, "class", "--epochs", str(epochs))["seconds_of_every_epoch"]
    trainer = {
        "default": run_peer(python, folder, "trainer", "--epochs", "3"),
        "large": run_peer(
            *(python, folder, "trainer", "--epochs", "3"),
            *("--eval-batch-size", str(PAPER_BATCH * split.train.n_items)),
        ),
    }
    return {
        "ours": {variant: statistics.median(seconds) for variant, seconds in ours.items()},
        "ours_with_evaluation": {variant: statistics.median(seconds) for variant, seconds in whole.items()},
        "ours_n_evaluated_users": everyone.n_users,
        "recbole_class": statistics.median(peer),
        "recbole_trainer": {
            name: {
                "seconds_per_epoch": result["seconds_per_epoch"],
                "n_evaluated_users": result["n_evaluated_users"],
                "users_per_evaluation_batch": result["users_per_evaluation_batch"],
            }
            for name, result in trainer.items()
        },
    }


def holdout_of_training_users(split: Split) -> HeldOut:
    """A tenth of every training user's items as targets, as RecBole's own split has them: for timing only."""
    matrix = split.train.matrix
    target = matrix.copy()
    held = np.random.default_rng(0).random(matrix.nnz) < 0.1
    target.data = held.astype(np.float32)
    history = matrix - target
    for part in (history, target):
        part.eliminate_zeros()
    return HeldOut(split.train.user_ids, history, target)


def measure_accuracy(split: Split, python: Path, folder: Path, annealing: str, epochs: int) -> dict[str, Any]:
    """When each first reaches RecBole's best validation score; seconds of training, and with validation."""
    peer = run_peer(python, folder, "accuracy", "--annealing", annealing, "--epochs", str(epochs))
    best = peer["best"]
    score, ends = validation_score(split), [time.perf_counter()]

    def validate(model: MultVAE) -> float:
        result = score(model)
        ends.append(time.perf_counter())
        return result

    rows = train(split, validate)
    training = np.cumsum([row["seconds"] for row in rows])
    reached = [i for i, row in enumerate(rows) if row[f"validation_{MONITOR}"] >= best[MONITOR]]
    first = reached[0] if reached else None
    return {
        "annealing": annealing,
        "recbole_best": best[MONITOR],
        "recbole_epoch": best["epoch"],
        "recbole_seconds": best["seconds_training"],
        "recbole_seconds_with_validation": best["seconds_with_validation"],
        "ours_epoch": None if first is None else first + 1,
        "ours_seconds": None if first is None else float(training[first]),
        "ours_seconds_with_validation": None if first is None else ends[first + 1] - ends[0],
        "ours_curve": [row[f"validation_{MONITOR}"] for row in rows],
        "recbole_curve": [row[MONITOR] for row in peer["curve"]],
    }


def measure_ranking(split: Split, n_users: int = 600, repeats: int = 15) -> dict[str, Any]:
    """Evaluation of ``n_users`` at k = 100 against the scoring product and ``torch.topk`` alone, alternately."""
    part = split.test
    users = HeldOut(part.user_ids[:n_users], part.history[:n_users], part.target[:n_users])
    model = MultVAE(split.train.n_items, seed=1).eval()
    metrics = [MONITOR, f"recall@{NDCG_AT}"]
    hidden = torch.randn(users.n_users, model.output.weight.shape[1]).tanh()
    weight, bias = model.output.weight.detach(), model.output.bias.detach()
    ours, bare = [], []
    for repeat in range(repeats + 3):
        began = time.perf_counter()
        torch.addmm(bias, hidden, weight.t()).topk(NDCG_AT)
        middle = time.perf_counter()
        evaluate_full_ranking(model.score, users, metrics, split.train.item_counts)
        if repeat >= 3:
            bare.append(middle - began)
            ours.append(time.perf_counter() - middle)
    return {
        "users": users.n_users,
        "seconds": statistics.median(ours),
        "bare_seconds": statistics.median(bare),
        "ratio": statistics.median(ours) / statistics.median(bare),
    }


def measure_scale(data: Path | None, epochs: int, threads: int) -> dict[str, Any]:
    """Train on the made-up dataset in a process of its own, as a user does, then time the floor of its epoch."""
    with tempfile.TemporaryDirectory() as name:
        table = data or Path(name) / "synthetic.parquet"
        if not table.exists():
            script = str(SCRIPTS / "synthetic_movielens20m.py")
            subprocess.run([sys.executable, script, str(table)], check=True, stdout=subprocess.DEVNULL)
        run = Path(name) / "run"
        settings = [f"trainer.{key}={epochs}" for key in ("max_epochs", "patience")]
        settings += [f"trainer.batch_size={PAPER_BATCH}", f"threads={threads}", f"run={run}"]
        command = [sys.executable, "-m", "recsys_vae", "train", "dataset=table", f"dataset.path={table}"]
        measured = [sys.executable, str(SCRIPTS / "peak_memory.py"), *command, *settings]
        answer = subprocess.run(measured, check=True, stdout=subprocess.PIPE, text=True)
        peak = json.loads(answer.stdout.splitlines()[-1])["peak_mib"]
        history = np.genfromtxt(run / "history.csv", delimiter=",", names=True)
        split = read_split(table, seed=1)
        floor = TrainingFloor(split.train.matrix, PAPER_BATCH).seconds()
    seconds = float(np.min(np.atleast_1d(history["seconds"])))
    shape = {
        "users": split.train.n_users,
        "items": split.train.n_items,
        "interactions": split.train.matrix.nnz,
    }
    return {
        **shape,
        "seconds_per_epoch": seconds,
        "floor_seconds": floor,
        "ratio_to_floor": seconds / floor,
        "peak_mib": peak,
    }


def table_rows(report: dict[str, Any]) -> list[Row]:
    """What was measured, the figure, and the figure that the project sets itself."""
    rows: list[Row] = []

    def add(name: str, value: str, target: str = "") -> None:
        rows.append((name, value, target))

    for variant, epoch in report.get("epoch", {}).items():
        add(f"epoch, {variant}", f"{epoch['seconds_per_epoch']:.3f} s")
        add("  floor, float32", f"{epoch['floor_seconds']:.3f} s")
        limit = "<= 1.3" if variant in (DEFAULT, FULL) else "<= 0.8"
        add("  ratio to the float32 floor", f"{epoch['ratio_to_floor']:.2f}", limit)
    if peer := report.get("peer"):
        add("RecBole's class, training only", f"{peer['recbole_class']:.3f} s")
        for variant, seconds in peer["ours"].items():
            aim = ">= 1.7" if variant in (DEFAULT, FULL) else ">= 2.8"
            add(f"  times ours, {variant}", f"{peer['recbole_class'] / seconds:.2f}", aim)
        whole = peer["ours_with_evaluation"]
        for variant, ours in whole.items():
            add(f"ours with evaluation of {peer['ours_n_evaluated_users']} users, {variant}", f"{ours:.2f} s")
        for name, trainer in peer["recbole_trainer"].items():
            seconds = trainer["seconds_per_epoch"]["whole"]
            add(
                f"RecBole's trainer with evaluation, {name} evaluation batch "
                f"({trainer['users_per_evaluation_batch']} users at a time, {trainer['n_evaluated_users']} users)",
                f"{seconds:.2f} s",
            )
            for variant, ours in whole.items():
                aim = ">= 8" if name == "default" else ""
                add(f"  times ours, {variant}", f"{seconds / ours:.1f}", aim)
    for result in report.get("accuracy", []):
        add(
            f"RecBole's best validation NDCG@100 ({result['annealing']} annealing)",
            f"{result['recbole_best']:.4f}",
        )
        add(f"  reached by RecBole in epoch {result['recbole_epoch']}", f"{result['recbole_seconds']:.1f} s")
        if result["ours_seconds"] is None:
            add("  reached by ours", "never", ">= 4 times sooner")
            continue
        add(f"  reached by ours in epoch {result['ours_epoch']}", f"{result['ours_seconds']:.1f} s")
        add(
            "  times sooner",
            f"{result['recbole_seconds'] / result['ours_seconds']:.1f}",
            ">= 4",
        )
    if ranking := report.get("ranking"):
        add(f"evaluation of {ranking['users']} users", f"{1e3 * ranking['seconds']:.1f} ms")
        add("  bare product and topk", f"{1e3 * ranking['bare_seconds']:.1f} ms")
        add("  ratio", f"{ranking['ratio']:.2f}", "<= 1.5")
    if scale := report.get("scale"):
        add(f"{scale['users']} users, {scale['items']} items: epoch", f"{scale['seconds_per_epoch']:.1f} s")
        add("  floor", f"{scale['floor_seconds']:.1f} s")
        add("  ratio", f"{scale['ratio_to_floor']:.2f}")
        add("  peak memory of the command", f"{scale['peak_mib'] / 1024:.2f} GiB", "< 2.5 GiB")
    return rows


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("data", type=Path, help="MovieLens-1M as one table: .parquet, .csv, ...")
    parser.add_argument("--output", type=Path, required=True, help="JSON")
    parser.add_argument("--recbole", type=Path, help="folder of RecBole's environment")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument(
        "--variants",
        nargs="+",
        choices=VARIANTS,
        default=[DEFAULT, FULL, SAMPLED],
        help="of the section epoch",
    )
    parser.add_argument("--annealing", nargs="+", choices=("paper", "rescaled"), default=["paper"])
    parser.add_argument("--epochs", type=int, default=8, help="timed epochs")
    parser.add_argument("--peer-epochs", type=int, default=100, help="of the section accuracy")
    parser.add_argument("--scale-data", type=Path, help="the made-up table, if there is one already")
    parser.add_argument("--scale-epochs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1, help="of the split")
    options = parser.parse_args(arguments)
    if options.recbole is None and {"peer", "accuracy"} & set(options.sections):
        parser.error(
            "--recbole: expected the folder of RecBole's environment for the sections peer and accuracy"
        )
    if min(options.epochs, options.threads, options.scale_epochs, options.peer_epochs) < 1:
        parser.error("--epochs, --threads, --scale-epochs, --peer-epochs: expected at least 1")
    return options


def main() -> int:
    """Measure section by section; the JSON is written after each."""
    options = parse()
    torch.set_num_threads(options.threads)
    quiet_lightning()
    split = read_split(options.data, options.seed)
    report: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": describe_machine(),
        "threads": options.threads,
        "split_sha256": split.sha256,
    }

    def save(section: str, result: Any) -> None:
        report[section] = result
        partial = options.output.with_name(f".{options.output.name}.partial")
        partial.write_text(json.dumps(report, indent=2) + "\n")
        partial.replace(options.output)
        print(f"measured: {section}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as name:
        folder = write_peer_split(split, Path(name) / "split")
        python = peer_python("recbole", options.recbole) if options.recbole else Path(sys.executable)
        measure: dict[str, Callable[[], Any]] = {
            "epoch": lambda: {v: measure_epoch(split, options.epochs, v) for v in options.variants},
            "ranking": lambda: measure_ranking(split),
            "peer": lambda: measure_peer(split, python, folder, options.epochs),
            "accuracy": lambda: [
                measure_accuracy(split, python, folder, annealing, options.peer_epochs)
                for annealing in options.annealing
            ],
            "scale": lambda: measure_scale(options.scale_data, options.scale_epochs, options.threads),
        }
        for section, function in measure.items():
            if section in options.sections:
                save(section, function())

    table = Table("measured", "figure", "aim", title=f"{report['machine']}, {report['date']}")
    for row in table_rows(report):
        table.add_row(*row)
    Console(width=150).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
