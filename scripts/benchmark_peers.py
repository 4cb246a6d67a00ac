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

`python scripts/plot_peers.py OUTPUT PICTURE` shows time and accuracy together.

Seconds are those of training up to the epoch that is used (of fitting, where there are no epochs), and in all, with
validation until training stops; the peak is of the whole process. Measure on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from machine import describe_machine
from peer_environment import PeerEnvironmentError
from peer_ranking import SELECTED_BY
from peer_split import read_split
from peer_table import chosen, markdown, table_rows
from peer_trial import Options, Record, System, configuration_sha256, read_systems, run_ours, run_peer

from recsys_vae.errors import UserError

CATALOGUE = Path(__file__).with_suffix(".yaml")


class OtherDefaultsError(UserError):
    """What is in the output was run with other defaults than there are now."""


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

    def check_configuration(self, name: str, trials: Sequence[Record], settings: Any, digest: str) -> None:
        """Raise ``OtherDefaultsError`` if the trial with these settings ran with other defaults."""
        (trial,) = (trial for trial in trials if trial["settings"] == settings)
        if trial["configuration_sha256"] != digest:
            raise OtherDefaultsError(
                f"--output: {self.path} has {name} {json.dumps(settings)} with other defaults; expected a new file"
            )

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


def fill(
    systems: Sequence[System],
    results: Results,
    options: argparse.Namespace,
    left_out: dict[str, str] | None = None,
) -> dict[str, list[Record]]:
    """Run what is lacking; return each system's chosen trial on every split.

    A failure leaves its system out, and its message in ``left_out``: of `recsys-vae`, the last.
    """
    picked: dict[str, list[Record]] = {system.name: [] for system in systems}
    machine = describe_machine()
    shared = Options(options.overrides, options.folder, options.recvae_reference, options.threads)
    for seed in options.seeds:
        split = read_split(options.overrides, seed)
        for system in systems:
            if system.name not in picked:
                continue
            settings = list(system.trials[: options.trials])
            if options.tune == "first" and picked[system.name]:
                settings = [picked[system.name][0]["settings"]]
            trials = results.trials(system.name, seed)
            if any(trial["split_sha256"] != split.sha256 for trial in trials):
                raise UserError(
                    f"--output: {results.path} is of another split of seed {seed}; expected a new file"
                )
            try:
                for tried in settings:
                    digest = configuration_sha256(system, tried, options.overrides)
                    if any(trial["settings"] == tried for trial in trials):
                        results.check_configuration(system.name, trials, tried, digest)
                        continue
                    began = time.perf_counter()
                    runner = run_ours if system.script is None else run_peer
                    figures = runner(system, tried, split, seed, shared)
                    per_user = figures.pop("per_user")
                    about = {"date": datetime.now(UTC).date().isoformat(), "machine": machine}
                    about |= {"threads": options.threads, "split_sha256": split.sha256}
                    about["configuration_sha256"] = digest
                    results.add(system.name, seed, {"settings": tried, **figures, **about}, per_user)
                    print(
                        f"{system.name}, seed {seed}, {json.dumps(tried)}: validation {SELECTED_BY} "
                        f"{figures['validation']:.4f}, {time.perf_counter() - began:.0f} s",
                        file=sys.stderr,
                        flush=True,
                    )
            except OtherDefaultsError:
                raise
            except (UserError, PeerEnvironmentError) as error:
                print(f"{system.name}: left out: {error}", file=sys.stderr)
                if left_out is not None:
                    left_out[system.name] = str(error).rpartition("recsys-vae: ")[2]
                del picked[system.name]
                continue
            picked[system.name].append(chosen(trials, settings))
    return picked


def caption(picked: dict[str, list[Record]], command: str) -> str:
    """Command, machine and date, and the packages that are no peer's but of which the figures depend too."""
    trials = [trial for several in picked.values() for trial in several]
    dates = sorted({trial["date"] for trial in trials})
    versions = {
        f"{name} {trial['versions'][name]}"
        for trial in trials
        for name in ("python", "torch")
        if name in trial["versions"]
    }
    return (
        f"From `{command}`; {', '.join(sorted({trial['machine'] for trial in trials}))}, "
        f"{trials[0]['threads']} threads, {' to '.join(sorted({dates[0], dates[-1]}))}; {', '.join(sorted(versions))}."
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
    titles = {
        system.name: system.title.format(**picked[system.name][-1]["versions"])
        for system in systems
        if system.name in picked
    }
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
