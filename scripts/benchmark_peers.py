"""Run other authors' recommenders and ours on the same splits, judge all by our metrics; print one table.

    python scripts/benchmark_peers.py dataset=ml-1m --seeds 1 2 3 4 5 --models ease mult_vae --trials 3 \\
        --folder ~/.cache/peers --output peers.json --markdown peers.md

Every peer runs in an environment of its own, made in a folder of FOLDER unless it is there, with pinned releases. It is
handed our split, fits, and hands back a ranking of the validation and test users (``peer_protocol.py``), so that the
metrics are computed here, by the code that judges ours. Ours are `recsys-vae train`. For each system and split the
settings of ``benchmark_peers.yaml`` are tried, --trials of them, and the best by validation NDCG@100 is tested; with
--tune first only the first split is tuned on, the others take its choice.

OUTPUT holds every trial, and beside it the folder OUTPUT.per_user has each trial's metrics of every test user, from
which the paired tests can be computed again. What is there is not run again, so an interrupted benchmark goes on.

Seconds are those of training up to the epoch that is used (of fitting, where there are no epochs), and in all, with
validation until training stops; the peak is of the whole process. Measure on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from machine import describe_machine
from peer_environment import PeerEnvironmentError, peer_python
from peer_ranking import SELECTED_BY, judge
from peer_split import write_peer_split
from peer_table import chosen, markdown, table_rows

from recsys_vae.bundled import bundled_path
from recsys_vae.cli.config import compose_config
from recsys_vae.cli.stages import filter_ratings, load_ratings, split_interactions
from recsys_vae.errors import UserError
from recsys_vae.interactions import Split

SCRIPTS = Path(__file__).parent
CATALOGUE = SCRIPTS / "benchmark_peers.yaml"
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


def run_measured(command: Sequence[str], threads: int) -> float:
    """Run a command with ``threads`` threads; return its peak memory in MiB. Raises ``UserError`` if it fails."""
    limits = {f"{library}_NUM_THREADS": str(threads) for library in ("OMP", "MKL", "OPENBLAS")}
    measured = [sys.executable, str(SCRIPTS / "peak_memory.py"), *command]
    with tempfile.TemporaryFile("w+") as log:
        done = subprocess.run(
            measured, env=os.environ | limits, stdout=subprocess.PIPE, stderr=log, text=True, check=False
        )
        if done.returncode:
            log.seek(0)
            tail = "\n".join(log.read().splitlines()[-15:])
            raise UserError(f"this command failed: {' '.join(command)}\n{tail}")
    return float(json.loads(done.stdout.splitlines()[-1])["peak_mib"])


def run_peer(
    system: System, settings: Record, split: Split, seed: int, options: argparse.Namespace
) -> Record:
    """One trial of a peer, in its own environment."""
    assert system.script is not None
    python = Path(sys.executable)
    if system.environment is not None:
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
            command += ["--checkout", str(options.recvae_reference)]
        peak = run_measured(command, options.threads)
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


def run_ours(
    system: System, overrides: list[str], split: Split, seed: int, options: argparse.Namespace
) -> Record:
    """One trial of a model of ours: `recsys-vae train`, whose run directory has the figures."""
    with tempfile.TemporaryDirectory() as name:
        run = Path(name) / "run"
        given = [*options.overrides, f"model={system.name}", *overrides, f"seed={seed}", f"run={run}"]
        given.append(f"threads={options.threads}")
        peak = run_measured([sys.executable, "-m", "recsys_vae", "train", *given], options.threads)
        record = json.loads((run / "metrics.json").read_text())
        found = json.loads((run / "split.json").read_text())["sha256"]
        if found != split.sha256:
            raise UserError(f"{system.name}: expected the split {split.sha256[:12]}, got {found[:12]}")
        per_user = pd.read_parquet(run / "per_user.parquet")
        seconds = {"to_best": record["seconds"]["fit"], "fit": record["seconds"]["fit"]}
        curve: list[float] = []
        if (run / "history.csv").exists():
            history = pd.read_csv(run / "history.csv")
            # Validation, and the epochs after the best, do not count.
            seconds["to_best"] = float(history["seconds"][: record["best_epoch"] + 1].sum())
            curve = history[f"validation_{SELECTED_BY}"].tolist()
    return {
        "validation": record["validation"][SELECTED_BY]["mean"],
        "peak_mib": peak,
        "per_user": per_user,
        "seconds": seconds,
        "best_epoch": record.get("best_epoch"),
        "n_epochs": record.get("n_epochs"),
        "curve": curve,
        "versions": {name: version(name) for name in ("recsys-vae", "torch", "numpy", "scipy")},
    }


class Results:
    """The trials that were run, in a JSON file, and beside it the metrics of every user, a file a trial."""

    def __init__(self, path: Path, overrides: list[str]) -> None:
        """Take up what is in ``path``; raises ``UserError`` if it is of another dataset."""
        self.path = path
        self.folder = path.with_name(f"{path.name}.per_user")
        self.record: Record = {"overrides": overrides, "trials": {}}
        if path.exists():
            self.record = json.loads(path.read_text())
            if self.record["overrides"] != overrides:
                raise UserError(f"--output: {path} is of {self.record['overrides']}; expected a new file")

    def trials(self, name: str, seed: int) -> list[Record]:
        """The trials of a system on a split."""
        found: list[Record] = self.record["trials"].setdefault(name, {}).setdefault(str(seed), [])
        return found

    def add(self, name: str, seed: int, trial: Record, per_user: pd.DataFrame) -> None:
        """Keep a trial; the files are whole whenever the program is stopped."""
        trials = self.trials(name, seed)
        self.folder.mkdir(parents=True, exist_ok=True)
        trial["per_user"] = f"{name}-seed{seed}-trial{len(trials)}.parquet"
        per_user.to_parquet(self.folder / trial["per_user"], index=False)
        trials.append(trial)
        self.save()

    def save(self) -> None:
        """Write the JSON file."""
        partial = self.path.with_name(f".{self.path.name}.partial")
        partial.write_text(json.dumps(self.record, indent=2) + "\n")
        partial.replace(self.path)


def fill(systems: Sequence[System], results: Results, options: argparse.Namespace) -> dict[str, list[Record]]:
    """Run what is lacking; return each system's chosen trial on every split. A failure leaves its system out."""
    picked: dict[str, list[Record]] = {system.name: [] for system in systems}
    machine = describe_machine()
    for seed in options.seeds:
        config = compose_config("train", [*options.overrides, f"seed={seed}"])
        split = split_interactions(config, filter_ratings(config, load_ratings(config)).interactions)
        for system in systems:
            if system.name not in picked:
                continue
            settings = list(system.trials[: options.trials])
            if options.tune == "first" and picked[system.name]:
                settings = [picked[system.name][0]["settings"]]
            trials = results.trials(system.name, seed)
            try:
                for tried in settings:
                    if any(trial["settings"] == tried for trial in trials):
                        continue
                    began = time.perf_counter()
                    runner = run_ours if system.script is None else run_peer
                    figures = runner(system, tried, split, seed, options)
                    per_user = figures.pop("per_user")
                    about = {"date": datetime.now(UTC).date().isoformat(), "machine": machine}
                    about |= {"threads": options.threads, "split_sha256": split.sha256}
                    results.add(system.name, seed, {"settings": tried, **figures, **about}, per_user)
                    print(
                        f"{system.name}, seed {seed}, {json.dumps(tried)}: validation {SELECTED_BY} "
                        f"{figures['validation']:.4f}, {time.perf_counter() - began:.0f} s",
                        file=sys.stderr,
                        flush=True,
                    )
            except (UserError, PeerEnvironmentError) as error:
                print(f"{system.name}: left out: {error}", file=sys.stderr)
                del picked[system.name]
                continue
            picked[system.name].append(chosen(trials, settings))
    return picked


def caption(picked: dict[str, list[Record]], command: str) -> str:
    """Data, seeds, versions, machine and date in a sentence or two."""
    trials = [trial for several in picked.values() for trial in several]
    versions = sorted({f"{name} {number}" for t in trials for name, number in t["versions"].items()})
    dates = sorted({trial["date"] for trial in trials})
    return (
        f"From `{command}`; {', '.join(sorted({trial['machine'] for trial in trials}))}, "
        f"{' to '.join(sorted({dates[0], dates[-1]}))}. Versions: {', '.join(versions)}."
    )


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("overrides", nargs="*", help="of recsys-vae train, such as dataset=ml-100k")
    parser.add_argument("--folder", type=Path, required=True, help="of the peers' environments")
    parser.add_argument("--output", type=Path, required=True, help="JSON")
    parser.add_argument("--markdown", type=Path, help="where to write the table too")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5], help="of the splits and the fits"
    )
    parser.add_argument(
        "--peers", nargs="*", help="names in the catalogue; left out: all that need no checkout"
    )
    parser.add_argument("--models", nargs="*", default=["ease"], help="ours, by the names of configs/model")
    parser.add_argument(
        "--against", help="the model that the tests compare with; left out: the first of --models"
    )
    parser.add_argument("--trials", type=int, default=3, help="settings tried for each system on each split")
    parser.add_argument(
        "--tune", choices=("every", "first"), default="every", help="which splits are tuned on"
    )
    parser.add_argument(
        "--recvae-reference", type=Path, metavar="PATH", help="checkout of the reference RecVAE"
    )
    parser.add_argument("--catalogue", type=Path, default=CATALOGUE, help="YAML: peers and their settings")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    if min(options.threads, options.trials) < 1:
        parser.error("--threads, --trials: expected at least 1")
    if options.peers and "recvae-reference" in options.peers and options.recvae_reference is None:
        parser.error("--recvae-reference: expected the folder of a checkout for the peer recvae-reference")
    options.folder = options.folder.expanduser().absolute()
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Fill in what the output lacks, print the table; exit code 1 when a system failed."""
    options = parse(arguments)
    try:
        systems = read_systems(options.catalogue, options.peers, options.models)
        names = [system.name for system in systems]
        against = options.against or (options.models or names)[0]
        if against not in names:
            raise UserError(f"--against: expected one of {', '.join(names)}, got {against!r}")
        results = Results(options.output, options.overrides)
        picked = fill(systems, results, options)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    if against not in picked:
        print(f"--against: {against} failed, so there is nothing to compare with", file=sys.stderr)
        return 1
    titles = {system.name: system.title for system in systems}
    rows = table_rows(picked, titles, against, results.folder)
    results.record["table"] = rows
    results.save()
    said = ["python scripts/benchmark_peers.py", *(arguments if arguments is not None else sys.argv[1:])]
    text = markdown(rows, against, caption(picked, " ".join(said)))
    if options.markdown:
        options.markdown.write_text(text)
    print(text)
    return 0 if len(picked) == len(systems) else 1


if __name__ == "__main__":
    sys.exit(main())
