"""Measure RecBole's MultiVAE on a split given as files. Runs in RecBole's environment.

    RECBOLE/bin/python scripts/recbole_peer.py FOLDER --mode class|trainer|accuracy --output RESULT.json

FOLDER holds SciPy CSR matrices, users by items, all over the same columns: train.npz, and for the accuracy
validation_history.npz, validation_target.npz, test_history.npz and test_target.npz.

class     RecBole's model class in a bare loop that does what its trainer does in an epoch, and nothing else.
          Seconds per training epoch: the median after one warm-up epoch.
trainer   What its user gets: RecBole's data loaders, split (of each training user's items), trainer and
          evaluation, all as it sets them, except the widths, the training batch and the metrics' cut-off.
          Seconds per epoch.
accuracy  The bare loop, validated after every epoch on the users of FOLDER: the learning curve against
          seconds, and the test metrics of the weights that were best on validation.

The layers are the paper's in every mode: [items, 600, 200, 600, items]. RecBole's latent_dimension counts
mean and variance together, so it is 400 for a z of 200.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import platform
import resource
import statistics
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy_metrics import NDCG_AT, summary
from recbole.data import create_dataset, data_preparation
from recbole.model.general_recommender import MultiVAE
from recbole.utils import get_trainer, init_seed
from recbole_model import Peer, recbole_config

CURVE_METRIC = f"ndcg@{NDCG_AT}"
EPOCHS = {"class": 5, "trainer": 3, "accuracy": 100}


def measure_class(peer: Peer, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds per training epoch of the bare loop."""
    seconds = []
    for _ in range(1 + options.epochs):
        began = time.perf_counter()
        peer.train_epoch()
        seconds.append(time.perf_counter() - began)
    return {
        "seconds_per_epoch": statistics.median(seconds[1:]),
        "seconds_of_every_epoch": seconds[1:],
        "seconds_of_warm_up": seconds[0],
    }


def measure_trainer(train: sp.csr_array, options: argparse.Namespace, workspace: Path) -> dict[str, Any]:
    """Seconds per epoch of RecBole's trainer: training, evaluation, and the whole with its bookkeeping."""
    config = recbole_config(train, options, workspace, split=[0.8, 0.1, 0.1])
    init_seed(config["seed"], config["reproducibility"])
    train_data, valid_data, _ = data_preparation(config, create_dataset(config))
    init_seed(config["seed"] + config["local_rank"], config["reproducibility"])
    model = MultiVAE(config, train_data._dataset).to(config["device"])
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)

    seconds: dict[str, list[float]] = {"training": [], "evaluation": [], "whole": []}

    def timed(name: str, function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            result = function(*args, **kwargs)
            seconds[name].append(time.perf_counter() - began)
            return result

        return call

    trainer._train_epoch = timed("training", trainer._train_epoch)
    trainer._valid_epoch = timed("evaluation", trainer._valid_epoch)
    ends = [time.perf_counter()]
    # Its checkpoint is written, as it does; it is never loaded, which fails from PyTorch 2.6 on.
    trainer.fit(
        train_data,
        valid_data,
        verbose=False,
        saved=True,
        show_progress=False,
        callback_fn=lambda *_: ends.append(time.perf_counter()),
    )
    seconds["whole"] = np.diff(ends).tolist()
    return {
        "seconds_per_epoch": {name: statistics.median(values) for name, values in seconds.items()},
        "seconds_of_every_epoch": seconds,
        "n_evaluated_users": len(valid_data.uid_list),
        "users_per_evaluation_batch": valid_data.step,
        "validation": dict(trainer.best_valid_result),
    }


def measure_accuracy(
    peer: Peer, parts: dict[str, sp.csr_array], options: argparse.Namespace
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Learning curve on the validation users, and the test metrics, per user too, of the best weights."""
    curve: list[dict[str, float]] = []
    best: dict[str, float] = {CURVE_METRIC: -1.0}
    best_weights: dict[str, torch.Tensor] = {}
    stopped = recbole_stop = None
    training = 0.0
    start = time.perf_counter()
    for epoch in range(1, options.epochs + 1):
        began = time.perf_counter()
        loss = peer.train_epoch()
        training += time.perf_counter() - began
        per_user = peer.evaluate(parts["validation_history"], parts["validation_target"])
        means = {name: row["mean"] for name, row in summary(per_user).items()}
        row = {
            "epoch": epoch,
            "loss": loss,
            "kl_weight": peer.kl_weight,
            **means,
            "seconds_training": training,
            "seconds_with_validation": time.perf_counter() - start,
        }
        curve.append(row)
        print(f"epoch {epoch}: {CURVE_METRIC} {row[CURVE_METRIC]:.4f}, {training:.1f} s", file=sys.stderr)
        if row[CURVE_METRIC] > best[CURVE_METRIC]:
            best, best_weights = row, copy.deepcopy(peer.model.state_dict())
        # RecBole's trainer stops when more than stopping_step = 10 validations in a row bring no new best.
        if recbole_stop is None and epoch - best["epoch"] > 10:
            recbole_stop = {"epoch": epoch, "best_epoch": best["epoch"], CURVE_METRIC: best[CURVE_METRIC]}
        if options.patience and epoch - best["epoch"] >= options.patience:
            stopped = epoch
            break
    peer.model.load_state_dict(best_weights)
    per_user = peer.evaluate(parts["test_history"], parts["test_target"])
    result = {
        "best": best,
        "test": summary(per_user),
        "stopped_early_at": stopped,
        "recbole_default_would_stop": recbole_stop,
        "seconds_training": training,
        "seconds_per_epoch": statistics.median(np.diff([0.0] + [row["seconds_training"] for row in curve])),
        "curve": curve,
    }
    return result, per_user


def read_matrix(path: Path) -> sp.csr_array:
    """Read a binary CSR matrix, float32 and in canonical form."""
    matrix = sp.csr_array(sp.load_npz(path)).astype(np.float32)
    matrix.sum_duplicates()
    if not (matrix.data == 1).all():
        raise ValueError(f"{path}: expected a binary matrix, got values other than 1")
    return matrix


def read_folder(folder: Path, mode: str) -> dict[str, sp.csr_array]:
    """Read the matrices that ``mode`` needs and check that they fit together."""
    names = ["train"]
    if mode == "accuracy":
        names += [f"{part}_{half}" for part in ("validation", "test") for half in ("history", "target")]
    parts = {name: read_matrix(folder / f"{name}.npz") for name in names}
    n_items = parts["train"].shape[1]
    for name, matrix in parts.items():
        if matrix.shape[1] != n_items:
            raise ValueError(f"{name}.npz: expected {n_items} columns as in train.npz, got {matrix.shape[1]}")
    # RecBole numbers what it sees; a row or a column without an entry does not exist for it.
    for axis, noun in ((0, "column"), (1, "row")):
        empty = int((parts["train"].sum(axis=axis) == 0).sum())
        if empty:
            raise ValueError(f"train.npz: expected an entry in every {noun}, got {empty} without")
    return parts


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; the defaults are the paper's settings."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--mode", choices=EPOCHS, required=True)
    parser.add_argument("--output", type=Path, required=True, help="JSON")
    parser.add_argument("--per-user", type=Path, help="accuracy: write the test metrics of every user, .npz")
    parser.add_argument("--epochs", type=int, help=f"default {EPOCHS}; class: after one warm-up epoch")
    parser.add_argument("--annealing", choices=("paper", "rescaled"), default="paper")
    parser.add_argument("--anneal-steps", type=int, default=200_000, help="of --annealing paper")
    parser.add_argument("--kl-cap", type=float, default=0.2)
    parser.add_argument("--batch-size", type=int, default=500)
    parser.add_argument("--eval-batch-size", type=int, default=4096, help="trainer: RecBole's is 4096 scores")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--hidden-dim", type=int, default=600)
    parser.add_argument("--latent-dim", type=int, default=200)
    parser.add_argument("--dropout", type=float, default=0.5)
    parser.add_argument(
        "--patience", type=int, default=0, help="accuracy: epochs without a new best; 0: never"
    )
    parser.add_argument("--seed", type=int, default=2020)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    options.epochs = EPOCHS[options.mode] if options.epochs is None else options.epochs
    if min(options.epochs, options.batch_size, options.threads) < 1:
        parser.error("--epochs, --batch-size, --threads: expected at least 1")
    return options


def main() -> int:
    """Measure in a temporary folder, write the result, print its main figures."""
    options = parse()
    torch.set_num_threads(options.threads)
    # RecBole parses sys.argv itself, with eval, and would take our options for its own.
    sys.argv = sys.argv[:1]
    output = options.output.absolute()
    per_user_path = options.per_user and options.per_user.absolute()
    try:
        parts = read_folder(options.folder, options.mode)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2

    # It leaves log_tensorboard/ in the working directory, a checkpoint and its dataset elsewhere.
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        if options.mode == "trainer":
            result = measure_trainer(parts["train"], options, Path(name))
        else:
            peer = Peer(parts["train"], options, Path(name))
            if options.mode == "class":
                result = measure_class(peer, options)
            else:
                result, per_user = measure_accuracy(peer, parts, options)
                if per_user_path:
                    np.savez_compressed(per_user_path, **per_user)

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
    report = {
        "mode": options.mode,
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in ("recbole", "torch", "numpy")},
        "settings": settings,
        "train": {
            "users": parts["train"].shape[0],
            "items": parts["train"].shape[1],
            "interactions": parts["train"].nnz,
        },
        "peak_mib": peak,
        **result,
    }
    partial = output.with_name(f".{output.name}.partial")
    partial.write_text(json.dumps(report, indent=2) + "\n")
    partial.replace(output)
    shown = {key: value for key, value in result.items() if key not in ("curve", "seconds_of_every_epoch")}
    print(json.dumps(shown, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
