"""Train every recommender of the project on the same splits; print one table, and one by length of history.

    python scripts/compare_ideas.py --seeds 1 2 3 --trials 3 --output ideas.json --markdown ideas.md
    python scripts/compare_ideas.py dataset=table dataset.path=ratings.parquet --models ease wmf bpmf --output few.json

Each fit is a `recsys-vae train` in a process of its own, of the splits and settings of ``benchmark_peers.py``: of the
first --trials settings under ``ours`` in ``benchmark_peers.yaml``, the one with the best NDCG@100 of the validation
users is tested. That budget is the same for all models; one with fewer settings there is refused, but for a model that
is not in the file, or has nothing to choose there, and is run as it is. With --tune first the choice is made on the
first split alone, and the others take it.

Differences are tested against ease's, user by user, and corrected by Holm for all models and metrics (by length of
history: for the lengths too). OUTPUT holds every trial, and OUTPUT.per_user its metrics of every test user; what is
there is not run again. A model that fails is left out and named, with exit code 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from benchmark_peers import CATALOGUE, Bench, caption, exit_code, unique
from peer_processes import interrupt_on_signals
from peer_ranking import METRICS, SELECTED_BY
from peer_results import Results
from peer_table import SIGNIFICANT, mean_of_splits, table_rows
from peer_trial import COVERAGE, Record, System, read_systems

from recsys_vae.bundled import bundled_path
from recsys_vae.errors import UserError
from recsys_vae.evaluation import compare_runs
from recsys_vae.evaluation.history_length import HISTORY_LENGTHS
from recsys_vae.evaluation.holm import holm

# Enough for a p below 0.05 after Holm among 900 tests.
PERMUTATIONS = 20_000
SPLITS_TUNED_ON = {"every": "every split", "first": "the first split"}


def every_model() -> list[str]:
    """The names of configs/model."""
    return sorted(path.stem for path in (bundled_path("configs") / "model").glob("*.yaml"))


def check_budget(systems: Sequence[System], n_trials: int) -> None:
    """Raise ``UserError`` for a model with fewer settings than the others are to try."""
    for system in systems:
        if system.trials != ([],) and len(system.trials) < n_trials:
            raise UserError(
                f"--trials: expected at most {len(system.trials)}, the settings of {system.name}, got {n_trials}"
            )


def by_history_length(
    picked: dict[str, list[Record]], against: str, folder: Path, permutations: int = PERMUTATIONS
) -> pd.DataFrame:
    """``compare_runs`` of every model against ``against``, of the users of each length of history.

    Columns as there, and ``n_history`` first; ``p_holm`` is corrected for all rows. The baseline has rows too, whose
    difference is 0. A length with fewer than two users who have a target is left out.
    """
    names = [against, *(name for name in picked if name != against)]
    users = {name: [pd.read_parquet(folder / trial["per_user"]) for trial in picked[name]] for name in names}
    frames = []
    for index, label in enumerate(HISTORY_LENGTHS):
        tables = {
            name: mean_of_splits([table[_stratum(table) == index] for table in several])
            for name, several in users.items()
        }
        if len(tables[against].dropna()) < 2:
            continue
        # The baseline against itself gives its rows.
        runs = {f"{against} as baseline": tables[against], **tables}
        found = compare_runs(runs, metrics=METRICS, permutations=permutations)
        found["baseline"] = against
        frames.append(found.assign(n_history=label))
    if not frames:
        return pd.DataFrame(columns=["n_history", "run"])
    table = pd.concat(frames, ignore_index=True)
    others = (table["run"] != against).to_numpy()
    table["p_holm"] = 1.0
    table.loc[others, "p_holm"] = holm(table.loc[others, "p_value"].to_numpy())
    return table[["n_history", *(column for column in table.columns if column != "n_history")]]


def _stratum(per_user: pd.DataFrame) -> np.ndarray:
    """Index into ``HISTORY_LENGTHS`` of each user; -1 without a target."""
    index = np.searchsorted(list(HISTORY_LENGTHS.values()), per_user["n_history"].to_numpy())
    return np.where(per_user["n_target"] > 0, index, -1)


def add_costs(rows: Sequence[Record], picked: dict[str, list[Record]]) -> None:
    """Put the means over the splits of what a model costs and covers into its row."""
    for row in rows:
        trials = picked[row["system"]]
        for key in (COVERAGE, "n_parameters"):
            row[key] = float(np.mean([trial[key] for trial in trials]))
        row["seconds"]["rank_1000"] = float(np.mean([trial["seconds"]["rank_1000"] for trial in trials]))


def cost_table(rows: Sequence[Record], against: str) -> str:
    """The rows of all models; a star where the test against ``against`` is below 0.05."""
    headings = [
        "model",
        *METRICS,
        f"{SELECTED_BY} less {against}'s",
        COVERAGE,
        "s to fit",
        "s for 1,000 users",
    ]
    lines = ["| " + " | ".join([*headings, "parameters"]) + " |", "| --- |" + " ---: |" * len(headings)]
    for row in rows:
        cells = [f"`{row['system']}`"]
        for metric, (mean, error) in row["metrics"].items():
            star = "*" if row["tests"].get(metric, {"p_holm": 1.0})["p_holm"] < SIGNIFICANT else ""
            cells.append(f"{mean:.4f} ± {error:.4f}{star}")
        own = row["tests"].get(SELECTED_BY)
        cells.append(f"{own['difference']:+.4f} ± {own['stderr']:.4f}" if own else "")
        cells += [
            f"{row[COVERAGE]:.3f}",
            f"{row['seconds']['fit']:.2f}",
            f"{row['seconds']['rank_1000']:.2f}",
        ]
        lines.append("| " + " | ".join([*cells, f"{row['n_parameters']:,.0f}"]) + " |")
    return "\n".join(lines)


def length_table(table: pd.DataFrame, order: Sequence[str]) -> str:
    """NDCG@100 by length of history, a column a length."""
    found = table[table["metric"] == SELECTED_BY] if len(table) else table
    if not len(found):
        return "No length of history has two users with a target."
    counts = {label: int(part["n"].iloc[0]) for label, part in found.groupby("n_history", sort=False)}
    headings = [f"{label} items ({n} users)" for label, n in counts.items()]
    lines = [f"| {SELECTED_BY} | " + " | ".join(headings) + " |", "| --- |" + " ---: |" * len(headings)]
    for name in order:
        own = found[found["run"] == name].set_index("n_history")
        cells = [
            f"{own.loc[label, 'mean']:.4f}" + ("*" if own.loc[label, "p_holm"] < SIGNIFICANT else "")
            for label in counts
        ]
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def budget_line(systems: Sequence[System], options: argparse.Namespace, left_out: dict[str, str]) -> str:
    """What was tried, and what could not be."""
    fixed = [system.name for system in systems if system.trials == ([],)]
    said = (
        f"Settings tried on the validation users of {SPLITS_TUNED_ON[options.tune]}: {options.trials} a model"
    )
    if fixed and options.trials > 1:
        said += f" ({', '.join(fixed)}: nothing to choose)"
    said += f"; seeds {', '.join(map(str, options.seeds))}. ± is the standard error"
    said += " over the splits." if len(options.seeds) > 1 else " over the users."
    said += f" *: differs from {options.against}, p < {SIGNIFICANT} after Holm."
    return said + "".join(f"\nLeft out: {name}: {why}" for name, why in left_out.items())


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("overrides", nargs="*", help="of recsys-vae train, such as dataset=ml-100k")
    parser.add_argument("--output", type=Path, required=True, help="JSON")
    parser.add_argument("--markdown", type=Path, help="where to write the tables too")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="of the splits and the fits")
    parser.add_argument("--models", nargs="+", help="names of configs/model; left out: all")
    parser.add_argument("--against", default="ease", help="the model that the tests compare with")
    parser.add_argument("--trials", type=int, default=1, help="settings tried for each model on each split")
    parser.add_argument(
        "--tune", choices=("every", "first"), default="every", help="which splits are tuned on"
    )
    parser.add_argument("--catalogue", type=Path, default=CATALOGUE, help="YAML with the settings")
    parser.add_argument("--threads", type=int, default=2, help="of each trial")
    parser.add_argument(
        "--jobs", type=int, default=1, help="trials side by side, of several systems or splits"
    )
    options = parser.parse_args(arguments)
    if min(options.threads, options.trials, options.jobs) < 1:
        parser.error("--threads, --trials, --jobs: expected at least 1")
    options.seeds = unique(options.seeds)
    options.models = options.models and unique(options.models)
    # What Bench asks for besides: there are no peers.
    options.folder, options.recvae_reference = Path(), None
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the output lacks, print the tables; exit code 1 when a model failed."""
    options = parse(arguments)
    command = ["python scripts/compare_ideas.py", *(arguments if arguments is not None else sys.argv[1:])]
    return exit_code(lambda: run_and_report(options, " ".join(command)), options.output)


def run_and_report(options: argparse.Namespace, command: str) -> int:
    """What ``main`` does, but for errors."""
    systems = read_systems(options.catalogue, [], options.models or every_model())
    names = [system.name for system in systems]
    if options.against not in names:
        raise UserError(f"--against: expected one of {', '.join(names)}, got {options.against!r}")
    check_budget(systems, options.trials)
    with Results(options.output, options.overrides) as results:
        bench = Bench(systems, results, options)
        picked = bench.fill()
        if options.against not in picked:
            print(
                f"--against: {options.against} failed, so there is nothing to compare with", file=sys.stderr
            )
            return 1
        rows = table_rows(picked, {name: name for name in picked}, options.against, results.folder)
        add_costs(rows, picked)
        lengths = by_history_length(picked, options.against, results.folder)
        record: dict[str, Any] = {
            "budget": {"trials": options.trials, "seeds": options.seeds, "tune": options.tune},
            "table": rows,
        }
        record |= {"by_history_length": lengths.to_dict("records"), "left_out": bench.left_out}
        results.record |= record
        results.save()
    parts = [cost_table(rows, options.against), length_table(lengths, [row["system"] for row in rows])]
    parts += [budget_line(systems, options, bench.left_out), caption(picked, command)]
    text = "\n\n".join(parts) + "\n"
    if options.markdown:
        options.markdown.write_text(text)
    print(text)
    return 0 if len(picked) == len(systems) else 1


if __name__ == "__main__":
    interrupt_on_signals()
    sys.exit(main())
