"""One trial of a system of ``benchmark_peers.py``: a peer in its own environment, or a model of ours."""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from omegaconf import OmegaConf
from peer_environment import ENVIRONMENTS, peer_python
from peer_processes import Processes
from peer_protocol import DEPTH, USERS_AT_ONCE
from peer_ranking import METRICS, SELECTED_BY, judge
from peer_split import write_peer_split
from scipy.sparse import csr_array

import recsys_vae
from recsys_vae.bundled import bundled_path
from recsys_vae.cli.config import compose_config
from recsys_vae.errors import UserError
from recsys_vae.interactions import Split
from recsys_vae.recommender import batches, load

SCRIPTS = Path(__file__).parent
COVERAGE = "coverage@20"
RANKED_USERS = 1000
# Trials run side by side, in threads: Hydra composes one configuration at a time, an environment is made once.
_COMPOSING, _MAKING = threading.Lock(), threading.Lock()
Record = dict[str, Any]


@dataclass(frozen=True)
class System:
    """One row of the table: a peer's script, or a model of ours (``script`` is None), and what to try."""

    name: str
    title: str
    trials: tuple[Any, ...]
    environment: str | None = None
    script: Path | None = None
    checkout: bool = False


@dataclass(frozen=True)
class Options:
    """What is the same for all: overrides of the data, the environments' folder, the reference RecVAE, threads."""

    overrides: list[str]
    folder: Path
    checkout: Path | None
    threads: int
    processes: Processes = field(default_factory=Processes)


def read_systems(catalogue: Path, peers: Sequence[str] | None, models: Sequence[str]) -> list[System]:
    """The systems asked for; ``peers`` None: all that need no checkout. Raises ``UserError`` for an unknown name."""
    written = yaml.safe_load(catalogue.read_text())
    known = written["peers"]
    if peers is None:
        peers = [name for name, entry in known.items() if not entry.get("checkout")]
    ours = sorted(path.stem for path in (bundled_path("configs") / "model").glob("*.yaml"))
    for argument, names, choices in (("--peers", peers, known), ("--models", models, ours)):
        for name in names:
            if name not in choices:
                raise UserError(f"{argument}: expected some of {', '.join(choices)}, got {name!r}")
    systems = [
        System(
            name,
            entry["title"],
            tuple({**entry.get("settings", {}), **trial} for trial in entry["trials"]),
            entry.get("environment"),
            catalogue.parent / entry["script"],
            entry.get("checkout", False),
        )
        for name, entry in known.items()
        if name in peers
    ]
    tried = written.get("ours") or {}
    return systems + [
        System(name, f"**{name}**", tuple(tried.get(name, {"trials": [[]]})["trials"])) for name in models
    ]


def run_peer(system: System, settings: Record, split: Split, seed: int, options: Options) -> Record:
    """One trial of a peer, in its own environment."""
    assert system.script is not None
    python = Path(sys.executable)
    if system.environment is not None:
        with _MAKING:
            python = peer_python(system.environment, options.folder / system.environment)
    with tempfile.TemporaryDirectory() as name:
        folder = write_peer_split(split, Path(name) / "split")
        answer = Path(name) / "answer"
        command = [str(python), "-W", "ignore", str(system.script), str(folder), "--output", str(answer)]
        command += [
            "--settings",
            json.dumps(settings),
            "--seed",
            str(seed),
            "--threads",
            str(options.threads),
        ]
        if system.checkout:
            command += ["--checkout", str(options.checkout)]
        peak = options.processes.run_measured(command, options.threads)
        report = json.loads((answer / "report.json").read_text())
        judged = {
            part: judge(answer / f"{part}.npy", getattr(split, part), split.train.item_counts, system.name)
            for part in ("validation", "test")
        }
    return {
        "validation": judged["validation"].means[SELECTED_BY],
        "peak_mib": peak,
        "per_user": judged["test"].per_user,
        **{key: report.get(key) for key in ("seconds", "best_epoch", "n_epochs", "curve", "versions")},
    }


def seconds_to_rank(run: Path, histories: csr_array, threads: int) -> float:
    """Seconds to score 1,000 users and list the best 100 items of each, from the quicker of two turns."""
    recommender = load(run)
    torch.set_num_threads(threads)
    histories = histories[:RANKED_USERS]
    depth = min(DEPTH, histories.shape[1])
    turns = []
    for _ in range(2):
        began = time.perf_counter()
        for rows in batches(histories, USERS_AT_ONCE):
            recommender.rank(rows, depth)
        turns.append(time.perf_counter() - began)
    return min(turns) * RANKED_USERS / histories.shape[0]


def configuration_sha256(system: System, settings: Any, overrides: Sequence[str]) -> str:
    """Digest of the settings of a trial: of ours the whole configuration, so that changed defaults count.

    Raises ``UserError`` for what `recsys-vae train` would refuse in them, and for metrics that lack those compared.
    """
    if system.script is None:
        given = [*overrides, f"model={system.name}", *settings, "seed=0", "run=unused", "threads=1"]
        with _COMPOSING:
            config = compose_config("train", given)
        if missing := set(METRICS) - set(config.evaluation.metrics):
            raise UserError(
                f"evaluation.metrics: expected {', '.join(METRICS)} too, {', '.join(missing)} is missing"
            )
        said = OmegaConf.to_yaml(config, resolve=True, sort_keys=True)
    else:
        said = json.dumps(settings, sort_keys=True)
    return sha256(said.encode()).hexdigest()


def code_sha256(system: System) -> str:
    """Digest of the code of a trial: of ours the package, of a peer its script and the releases it asks for."""
    if system.script is None:
        package = Path(recsys_vae.__file__).parent
        files = sorted(package.rglob("*.py"))
        said = [f"{path.relative_to(package).as_posix()}\n{path.read_text()}" for path in files]
    else:
        said = [path.read_text() for path in (system.script, SCRIPTS / "peer_protocol.py")]
        if system.environment is not None:
            said += ENVIRONMENTS[system.environment].wanted()
    return sha256("\0".join(said).encode()).hexdigest()


def run_ours(system: System, overrides: list[str], split: Split, seed: int, options: Options) -> Record:
    """One trial of a model of ours: `recsys-vae train`, whose run directory has the figures."""
    with tempfile.TemporaryDirectory() as name:
        run = Path(name) / "run"
        given = [*options.overrides, f"model={system.name}", *overrides, f"seed={seed}", f"run={run}"]
        given.append(f"threads={options.threads}")
        command = [sys.executable, "-m", "recsys_vae", "train", *given]
        peak = options.processes.run_measured(command, options.threads)
        record = json.loads((run / "metrics.json").read_text())
        found = json.loads((run / "split.json").read_text())["sha256"]
        if found != split.sha256:
            raise UserError(f"{system.name}: expected the split {split.sha256[:12]}, got {found[:12]}")
        per_user = pd.read_parquet(run / "per_user.parquet")
        rank_1000 = seconds_to_rank(run, split.test.history, options.threads)
        seconds = {"to_best": record["seconds"]["fit"], "fit": record["seconds"]["fit"]}
        seconds["rank_1000"] = rank_1000
        curve: list[float] = []
        if (run / "history.csv").exists():
            history = pd.read_csv(run / "history.csv")
            best = record["best_epoch"] + 1
            seconds["to_best"] = float(history["seconds"][:best].sum())
            with _COMPOSING:
                config = compose_config("train", [f"model={system.name}"])
            if "linear" in config.model:
                # A path without epochs is not in that file. Of the whole, leave out the epochs after the best alone.
                seconds["to_best"] = seconds["fit"] - float(history["seconds"][best:].sum())
            curve = history[f"validation_{SELECTED_BY}"].tolist()
    return {
        "validation": record["validation"][SELECTED_BY]["mean"],
        "peak_mib": peak,
        "per_user": per_user,
        "seconds": seconds,
        "best_epoch": record.get("best_epoch"),
        "n_epochs": record.get("n_epochs"),
        "curve": curve,
        "n_parameters": record["n_parameters"],
        COVERAGE: record["beyond_accuracy"][COVERAGE],
        "versions": {name: version(name) for name in ("recsys-vae", "torch", "numpy", "scipy")},
    }
