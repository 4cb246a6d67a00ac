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
validation until training stops; the peak is of the whole process. Measure on an idle machine; --jobs runs several
trials side by side, whose seconds then are for orders of magnitude.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from machine import describe_machine
from peer_environment import PeerEnvironmentError
from peer_processes import interrupt_on_signals
from peer_ranking import SELECTED_BY
from peer_results import Results
from peer_split import read_split
from peer_table import chosen, markdown, table_rows
from peer_trial import (
    Options,
    Record,
    System,
    code_sha256,
    configuration_sha256,
    read_systems,
    run_ours,
    run_peer,
)

from recsys_vae.errors import UserError

CATALOGUE = Path(__file__).with_suffix(".yaml")


class Bench:
    """Runs the trials that the results lack; with ``jobs`` above 1, of several systems and splits side by side."""

    def __init__(self, systems: Sequence[System], results: Results, options: argparse.Namespace) -> None:
        self._systems, self._results, self._options = systems, results, options
        self._shared = Options(options.overrides, options.folder, options.recvae_reference, options.threads)
        self._machine = describe_machine()
        self._splits = {seed: read_split(options.overrides, seed) for seed in options.seeds}
        self._stopped = threading.Event()
        self.left_out: dict[str, str] = {}

    def fill(self) -> dict[str, list[Record]]:
        """Run what is lacking; return each system's chosen trial on every split, in the order of the seeds.

        A failure leaves its system out, and its message in ``left_out``: of `recsys-vae`, the last.

        Raises:
            UserError: the results are of another split, or of other defaults, or settings of ours are refused; before
                anything is run.
        """
        for system in self._systems:
            self._check(system)
        first, *others = self._options.seeds
        picks: dict[tuple[str, int], Record | None] = {}
        pool = ThreadPoolExecutor(self._options.jobs)
        try:
            running = {pool.submit(self._split, system, first): (system, first) for system in self._systems}
            if self._options.tune == "every":
                running |= {
                    pool.submit(self._split, system, seed): (system, seed)
                    for seed in others
                    for system in self._systems
                }
            while running:
                for done in wait(running, return_when=FIRST_COMPLETED).done:
                    system, seed = running.pop(done)
                    pick = picks[system.name, seed] = done.result()
                    if self._options.tune == "first" and seed == first and pick is not None:
                        tuned = replace(system, trials=(pick["settings"],))
                        running |= {
                            pool.submit(self._split, tuned, other): (system, other) for other in others
                        }
        except BaseException:
            self._stopped.set()
            self._shared.processes.stop()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
        of_system = {
            system.name: [picks.get((system.name, seed)) for seed in self._options.seeds]
            for system in self._systems
        }
        return {
            name: [trial for trial in trials if trial is not None]
            for name, trials in of_system.items()
            if None not in trials
        }

    def _check(self, system: System) -> None:
        """Refuse settings that cannot run, and results that cannot stand beside what is still to be run."""
        tried = system.trials[: self._options.trials]
        digests = [configuration_sha256(system, settings, self._options.overrides) for settings in tried]
        code = code_sha256(system)
        of_other_code = False
        for seed in self._options.seeds:
            for trial in self._results.trials(system.name, seed):
                if trial["split_sha256"] != self._splits[seed].sha256:
                    raise UserError(
                        f"--output: {self._results.path} is of another split of seed {seed}; expected a new file"
                    )
                if trial["settings"] in tried:
                    self._results.check_trial(system.name, trial, digests[tried.index(trial["settings"])])
                    of_other_code |= trial.get("code_sha256") != code
        if of_other_code:
            print(
                f"warning: {self._results.path} has {system.name} by other code or releases than those here; it is not "
                "run again",
                file=sys.stderr,
            )

    def _split(self, system: System, seed: int) -> Record | None:
        """The chosen trial of a system on one split; None if it failed here or elsewhere."""
        settings = list(system.trials[: self._options.trials])
        try:
            for tried in settings:
                if self._stopped.is_set() or system.name in self.left_out:
                    return None
                self._trial(system, tried, seed)
        except (UserError, PeerEnvironmentError) as error:
            if not self._stopped.is_set():
                print(f"{system.name}: left out: {error}", file=sys.stderr)
                self.left_out.setdefault(system.name, str(error).rpartition("recsys-vae: ")[2])
            return None
        return chosen(self._results.trials(system.name, seed), settings)

    def _trial(self, system: System, tried: Any, seed: int) -> None:
        """Run a trial unless the results have it."""
        if any(trial["settings"] == tried for trial in self._results.trials(system.name, seed)):
            return
        digest = configuration_sha256(system, tried, self._options.overrides)
        began = time.perf_counter()
        runner = run_ours if system.script is None else run_peer
        figures = runner(system, tried, self._splits[seed], seed, self._shared)
        per_user = figures.pop("per_user")
        about = {"date": datetime.now(UTC).date().isoformat(), "machine": self._machine}
        about |= {"threads": self._options.threads, "jobs": self._options.jobs}
        about |= {"split_sha256": self._splits[seed].sha256, "configuration_sha256": digest}
        about["code_sha256"] = code_sha256(system)
        self._results.add(system.name, seed, {"settings": tried, **figures, **about}, per_user)
        print(
            f"{system.name}, seed {seed}, {json.dumps(tried)}: validation {SELECTED_BY} "
            f"{figures['validation']:.4f}, {time.perf_counter() - began:.0f} s",
            file=sys.stderr,
            flush=True,
        )


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
        f"{_threads(trials)}, {' to '.join(sorted({dates[0], dates[-1]}))}; {', '.join(sorted(versions))}."
    )


def unique(given: Sequence[Any]) -> list[Any]:
    """Each once, in order: what is named twice would run twice at the same time."""
    return list(dict.fromkeys(given))


def _threads(trials: Sequence[Record]) -> str:
    """How the machine was shared. Trials from before --jobs ran one after the other."""
    jobs = sorted({(trial["threads"], trial.get("jobs", 1)) for trial in trials})
    return " or ".join(
        f"{threads} threads" + (f" each, {side_by_side} trials side by side" if side_by_side > 1 else "")
        for threads, side_by_side in jobs
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
    parser.add_argument("--threads", type=int, default=2, help="of each trial")
    parser.add_argument(
        "--jobs", type=int, default=1, help="trials side by side, of several systems or splits"
    )
    options = parser.parse_args(arguments)
    if min(options.threads, options.trials, options.jobs) < 1:
        parser.error("--threads, --trials, --jobs: expected at least 1")
    options.seeds, options.models = unique(options.seeds), unique(options.models)
    options.peers = options.peers and unique(options.peers)
    if options.peers and "recvae-reference" in options.peers and options.recvae_reference is None:
        parser.error("--recvae-reference: expected the folder of a checkout for the peer recvae-reference")
    options.folder = options.folder.expanduser().absolute()
    return options


def exit_code(run: Callable[[], int], output: Path) -> int:
    """That of ``run``; 2, and one line, for a ``UserError``, 130 for an interrupt."""
    try:
        return run()
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"stopped; the same command goes on from what is in {output}", file=sys.stderr)
        return 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Fill in what the output lacks, print the table; exit code 1 when a system failed."""
    options = parse(arguments)
    command = ["python scripts/benchmark_peers.py", *(arguments if arguments is not None else sys.argv[1:])]
    return exit_code(lambda: run_and_report(options, " ".join(command)), options.output)


def run_and_report(options: argparse.Namespace, command: str) -> int:
    """What ``main`` does, but for errors."""
    systems = read_systems(options.catalogue, options.peers, options.models)
    names = [system.name for system in systems]
    against = options.against or (options.models or names)[0]
    if against not in names:
        raise UserError(f"--against: expected one of {', '.join(names)}, got {against!r}")
    with Results(options.output, options.overrides) as results:
        picked = Bench(systems, results, options).fill()
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
    text = markdown(rows, against, caption(picked, command))
    if options.markdown:
        options.markdown.write_text(text)
    print(text)
    return 0 if len(picked) == len(systems) else 1


if __name__ == "__main__":
    interrupt_on_signals()
    sys.exit(main())
