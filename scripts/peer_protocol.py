"""What ``benchmark_peers.py`` and a peer's script agree on. Runs in the peer's environment: NumPy and SciPy only.

    PEER/bin/python scripts/NAME_peer.py SPLIT --settings JSON --seed 1 --threads 2 --output FOLDER

SPLIT holds the matrices of ``peer_split.py``. The script fits on train.npz, may look at the validation users to know
when to stop, and leaves in FOLDER:

validation.npy, test.npy   ``(users, 100)`` int64: every user's items, best first, without those of the history; -1
                           after the last.
report.json                ``seconds`` (``to_best``: training up to the epoch that is used, or the whole fit where there
                           are no epochs; ``fit``: all of it, validation included), ``best_epoch`` and ``n_epochs`` or
                           null, ``curve`` (validation NDCG@100 after each epoch), ``versions``, ``settings``.

A script is a function from a ``Task`` to a ``Fitted`` that it hands to ``run``.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy_metrics import NDCG_AT, ranking_metrics

DEPTH = 100
USERS_AT_ONCE = 500
PARTS = ("validation", "test")
Score = Callable[[sp.csr_array], np.ndarray]


@dataclass(frozen=True)
class Task:
    """What a script is to do: ``train`` and the held-out matrices are binary CSR over the same items."""

    train: sp.csr_array
    histories: dict[str, sp.csr_array]
    validation_target: sp.csr_array
    settings: dict[str, Any]
    seed: int
    threads: int
    checkout: Path | None


@dataclass(frozen=True)
class Fitted:
    """A fitted model: from histories ``(users, items)`` to scores of the same shape; seconds; the learning curve."""

    score: Score
    seconds_to_best: float
    curve: Sequence[float] = ()
    best_epoch: int | None = None


class BestEpoch:
    """Early stopping: the validation NDCG@100 after every epoch, and the state of the epoch that had the best."""

    def __init__(self, task: Task, patience: int) -> None:
        self._task = task
        self._patience = patience
        self._best_state: Any = None
        self._training = 0.0
        self.best_epoch = 0
        self.seconds_to_best = 0.0
        self.curve: list[float] = []

    def update(self, seconds: float, score: Score, state: Callable[[], Any]) -> bool:
        """Validate after an epoch of training that took ``seconds``; say whether to go on."""
        self._training += seconds
        ndcg = validation_ndcg(score, self._task)
        if ndcg > max(self.curve, default=-1.0):
            self.best_epoch, self.seconds_to_best = len(self.curve) + 1, self._training
            self._best_state = state()
        self.curve.append(ndcg)
        return len(self.curve) - self.best_epoch < self._patience

    @property
    def best_state(self) -> Any:
        """What ``state`` returned after the best epoch."""
        return self._best_state

    def fitted(self, score: Score) -> Fitted:
        """The result, once ``score`` is that of the best state again."""
        return Fitted(score, self.seconds_to_best, self.curve, self.best_epoch)


def validation_ndcg(score: Score, task: Task) -> float:
    """Mean NDCG@100 of the validation users that have a target."""
    history, target = task.histories["validation"], task.validation_target
    values = [
        ranking_metrics(score(history[rows]), history[rows], target[rows])[f"ndcg@{NDCG_AT}"]
        for rows in _batches(history.shape[0])
    ]
    return float(np.nanmean(np.concatenate(values)))


def rank(scores: np.ndarray, history: sp.csr_array, depth: int = DEPTH) -> np.ndarray:
    """The ``depth`` best items that are not in the history, best first, -1 after the last; ``(users, depth)`` int64.

    Equal scores are in the order of the items. Raises ``ValueError`` for a score that is NaN.
    """
    if np.isnan(scores).any():
        raise ValueError("scores: expected numbers, got NaN")
    seen = history.toarray() > 0
    order = np.argsort(np.where(seen, np.inf, -scores), axis=1, kind="stable")[:, :depth].astype(np.int64)
    order[np.take_along_axis(seen, order, axis=1)] = -1
    return np.pad(order, ((0, 0), (0, depth - order.shape[1])), constant_values=-1)


def read_task(options: argparse.Namespace) -> Task:
    """Read the split; raises ``ValueError`` when a matrix is not binary or has other columns than train.npz."""
    names = ["train", "validation_history", "validation_target", "test_history"]
    parts = {}
    for name in names:
        matrix = sp.csr_array(sp.load_npz(options.split / f"{name}.npz")).astype(np.float32)
        matrix.sum_duplicates()
        if not (matrix.data == 1).all():
            raise ValueError(f"{name}.npz: expected a binary matrix, got values other than 1")
        if matrix.shape[1] != parts.get("train", matrix).shape[1]:
            raise ValueError(f"{name}.npz: expected {parts['train'].shape[1]} columns, got {matrix.shape[1]}")
        parts[name] = matrix
    return Task(
        parts["train"],
        {part: parts[f"{part}_history"] for part in PARTS},
        parts["validation_target"],
        options.settings,
        options.seed,
        options.threads,
        options.checkout,
    )


def run(fit: Callable[[Task], Fitted], packages: Sequence[str], arguments: list[str] | None = None) -> int:
    """The whole of a peer's script: read, fit, rank, write."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("split", type=Path)
    parser.add_argument("--settings", type=json.loads, default={}, help="JSON object")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--checkout", type=Path, help="of a peer that is no package")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    # Some peers leave files in the working directory.
    output = options.output.absolute()
    task = read_task(options)
    began = time.perf_counter()
    fitted = fit(task)
    seconds = time.perf_counter() - began
    output.mkdir(parents=True, exist_ok=True)
    for part, history in task.histories.items():
        lists = [rank(fitted.score(history[rows]), history[rows]) for rows in _batches(history.shape[0])]
        np.save(output / f"{part}.npy", np.concatenate(lists))
    report = {
        "seconds": {"to_best": fitted.seconds_to_best, "fit": seconds},
        "best_epoch": fitted.best_epoch,
        "n_epochs": len(fitted.curve) or None,
        "curve": list(fitted.curve),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
        "settings": task.settings,
    }
    (output / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    return 0


def _batches(n_users: int) -> list[slice]:
    return [slice(start, start + USERS_AT_ONCE) for start in range(0, n_users, USERS_AT_ONCE)]
