"""Does better inference of a user's taste recommend better, how long must the history be, and what does it cost?

    python scripts/study_inference.py --run runs/NAME --output inference.json --markdown inference.md
    python scripts/study_inference.py dataset=ml-1m seed=1 --output inference.json        # trains the run first

One model, many ways to infer z from a history: a row each, by default those of inference_rows.py, at both powers of
the likelihood unless one is given: 1 / kl_weight (what the model was trained for) and 1 (the generative model's own
posterior). A row is what `recsys-vae evaluate` takes: `--rows mode,likelihood_power=2,max_evaluations=20 hmc`.

Users are held out, and stand in the order of a seeded shuffle. Short histories are real ones cut short: of every
user with at least 5, 20 or 50 items, a random 1-5, 6-20 or 21-50 are the history. The targets stay. Items that were
cut are neither: since the user does like them, they would count as errors, so that no method may rank them, no more
than the history itself. "more" are the histories of over 50 items, whole.

log-likelihood  Mean over a user's targets of the logarithm of the predictive probability, in nats, over the whole
                catalogue; for models with a softmax only.
seconds         Of inference and scoring, for 1,000 users; ranking is the same for all and left out.
differences     To the encoder on the same users, with their standard error. The p values are of the sign-flip
                randomisation test, corrected by Holm for all rows, histories and metrics together; * means below 0.05.
believe it?     Share of users whose R-hat is below 1.05 in every coordinate (chains), whose k-hat is below 0.7
                (importance), whose search met its tolerance (mode, maximum likelihood), or whose bound did not fall
                (mean field); median and worst value.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from inference_rows import QUICK, ROWS, Row
from machine import describe_machine
from rich.console import Console
from rich.table import Table
from scipy.sparse import csr_array
from short_histories import Stratum, make_strata

from recsys_vae.errors import UserError
from recsys_vae.evaluation import Evaluation, compare_runs
from recsys_vae.evaluation.holm import holm
from recsys_vae.inference import Inference, trained_likelihood_power
from recsys_vae.models import PPCA
from recsys_vae.posterior import LikelihoodPower, MarkovChains
from recsys_vae.posterior.likelihood_power import record_power
from recsys_vae.ranking import mask_seen, top_k
from recsys_vae.recommender import Recommender, load

RANKING = ("ndcg@100", "recall@20")
LIKELIHOOD = "log-likelihood"
BASELINE = "encoder"
# Holm multiplies the smallest p value, 1 / (1 + PERMUTATIONS), by a few hundred comparisons.
PERMUTATIONS = 100_000
# Diagnostic, its name in the table, and the bound within which a user can be believed: see recsys_vae.cli.posteriors.
# A search has a tolerance of its own, and says itself whether it met it.
BELIEF = (
    ("r_hat", "R-hat", 1.05),
    ("k_hat", "k-hat", 0.7),
    ("elbo_gain", "bound", 0.0),
    ("scaled_gradient_norm", "gradient", None),
)
Record = dict[str, Any]


def mean_target_score(scores: torch.Tensor, target: csr_array) -> np.ndarray:
    """Mean score of each user's targets."""
    n_targets = np.diff(target.indptr)
    users = torch.from_numpy(np.repeat(np.arange(len(n_targets)), n_targets))
    found = scores.cpu().double()[users, torch.from_numpy(target.indices.astype(np.int64))]
    sums = torch.zeros(len(n_targets), dtype=torch.float64).index_add_(0, users, found)
    return sums.numpy() / n_targets


def measure(
    recommender: Recommender, stratum: Stratum, row: Row, power: LikelihoodPower | None, seed: int
) -> tuple[Record, pd.DataFrame]:
    """Infer, score and rank: the figures of a row, and every user's metrics."""
    model, held_out = recommender.model, stratum.held_out
    inference = Inference(model, row.method, power or 1.0, predictive=row.predictive, seed=seed)
    evaluation = Evaluation(RANKING, item_counts=recommender.catalogue.item_counts)
    seconds, likelihoods = 0.0, []
    for start in range(0, held_out.n_users, row.method.batch_size):
        rows = slice(start, start + row.method.batch_size)
        history, target, liked = held_out.history[rows], held_out.target[rows], stratum.liked[rows]
        began = time.perf_counter()
        scores = inference.score(history)
        seconds += time.perf_counter() - began
        likelihoods.append(mean_target_score(scores, target))
        evaluation.update(
            top_k(mask_seen(scores, liked), evaluation.depth).items.cpu().numpy(),
            target,
            history_lengths=np.diff(history.indptr),
            user_ids=held_out.user_ids[rows],
        )
    per_user = evaluation.result().per_user
    if not isinstance(model, PPCA):
        per_user[LIKELIHOOD] = np.concatenate(likelihoods)
    metrics = [name for name in (*RANKING, LIKELIHOOD) if name in per_user]
    errors = per_user[metrics].sem()
    record: Record = {
        "history": stratum.name,
        "row": row.name,
        "likelihood_power": power if power is None else record_power(power),
        "n_users": held_out.n_users,
        "metrics": {
            name: {"mean": float(per_user[name].mean()), "stderr": float(errors[name])} for name in metrics
        },
        "seconds_per_1000_users": 1000.0 * seconds / held_out.n_users,
        "believe": belief(inference.diagnostics()),
    }
    return record, per_user


def belief(diagnostics: Mapping[str, np.ndarray]) -> Record | None:
    """Whether to believe what was inferred, by the first diagnostic of BELIEF that there is."""
    for name, _, bound in BELIEF:
        if name not in diagnostics:
            continue
        values = diagnostics[name]
        if bound is None:
            believed = diagnostics["converged"] > 0.0
        else:
            believed = values >= bound if name == "elbo_gain" else values < bound
        worst = np.nanmin(values) if name == "elbo_gain" else np.nanmax(values)
        return {
            "diagnostic": name,
            "share": float(believed.mean()),
            "median": float(np.nanmedian(values)),
            "worst": float(worst),
        }
    return None


def against(per_user: pd.DataFrame, baseline: pd.DataFrame, seed: int) -> Record:
    """Paired differences to the baseline on the same users, metric by metric."""
    same = baseline[baseline["user_id"].isin(per_user["user_id"])]
    runs = {"baseline": same, "row": per_user}
    table = compare_runs(runs, permutations=PERMUTATIONS, seed=seed).set_index("metric")
    columns = ["difference", "stderr", "low", "high", "p_value"]
    return {str(metric): {key: float(values[key]) for key in columns} for metric, values in table.iterrows()}


def correct(records: Sequence[Record]) -> None:
    """Fill in ``p_holm``, for all comparisons together."""
    entries = [entry for record in records for entry in (record["against_encoder"] or {}).values()]
    p_values = np.array([entry["p_value"] for entry in entries], dtype=np.float64)
    for entry, p_holm in zip(entries, holm(p_values).tolist(), strict=True):
        entry["p_holm"] = p_holm


def show_metric(record: Record, metric: str) -> str:
    """Mean, and difference to the encoder with its standard error."""
    if metric not in record["metrics"]:
        return ""
    mean, digits = record["metrics"][metric]["mean"], 3 if metric == LIKELIHOOD else 4
    if not record["against_encoder"]:
        return f"{mean:.{digits}f} ± {record['metrics'][metric]['stderr']:.{digits}f}"
    found = record["against_encoder"][metric]
    star = " *" if found["p_holm"] < 0.05 else ""
    return f"{mean:.{digits}f} ({found['difference']:+.{digits}f} ± {found['stderr']:.{digits}f}{star})"


def show_belief(record: Record) -> str:
    """Share of users, and the diagnostic's median and worst value."""
    found = record["believe"]
    if found is None:
        return ""
    shown = {name: text for name, text, _ in BELIEF}[found["diagnostic"]]
    return f"{found['share']:.0%}; {shown} {found['median']:.3g}, worst {found['worst']:.3g}"


def show_power(power: float | str | None) -> str:
    """A number without needless digits, or ``NUMBER/items``."""
    return f"{power:g}" if isinstance(power, float | int) else power or ""


HEADER = ("posterior", "power", "users", *RANKING, f"{LIKELIHOOD} per item", "s per 1,000", "believe it?")


def cells(record: Record) -> tuple[str, ...]:
    """A row of the table."""
    seconds = record["seconds_per_1000_users"]
    return (
        record["row"],
        show_power(record["likelihood_power"]),
        str(record["n_users"]),
        *(show_metric(record, metric) for metric in (*RANKING, LIKELIHOOD)),
        f"{seconds:.2g}" if seconds < 10.0 else f"{seconds:.0f}",
        show_belief(record),
    )


def markdown(records: Sequence[Record]) -> str:
    """All histories in one table."""
    lines = ["| history | " + " | ".join(HEADER) + " |", "| --- |" + " --- |" * len(HEADER)]
    previous = None
    for record in records:
        history = record["history"] if record["history"] != previous else ""
        previous = record["history"]
        lines.append("| " + " | ".join((history, *cells(record))).replace("  ", " ") + " |")
    return "\n".join(lines) + "\n"


def print_tables(records: Sequence[Record], console: Console) -> None:
    """One table a length of history."""
    for name in dict.fromkeys(record["history"] for record in records):
        table = Table(title=f"histories of {name} items", title_justify="left", title_style="bold")
        for column in HEADER:
            table.add_column(column, justify="left" if column in (HEADER[0], HEADER[-1]) else "right")
        for record in records:
            if record["history"] == name:
                table.add_row(*cells(record))
        console.print(table)


def train(overrides: list[str], run: Path) -> None:
    """A run by the command line."""
    command = [sys.executable, "-m", "recsys_vae", "train", *overrides, f"run={run}"]
    code = subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode
    if code:
        sys.exit(code)  # it has said why


def parse_arguments() -> argparse.Namespace:
    """The command line; rows are parsed too, so that a mistake shows at once."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("overrides", nargs="*", help="of recsys-vae train, when there is no --run")
    parser.add_argument("--run", type=Path, help="a finished run directory")
    parser.add_argument("--output", type=Path, required=True, help="JSON; written anew after every row")
    parser.add_argument("--markdown", type=Path, help="the table, for a README")
    parser.add_argument("--part", choices=("test", "validation"), default="test")
    parser.add_argument("--users", type=int, help="at most so many of each length of history (all)")
    parser.add_argument("--chain-users", type=int, help="at most so many for methods that run chains (all)")
    parser.add_argument(
        "--rows", nargs="+", metavar="POSTERIOR[,KEY=VALUE...]", help="(those of inference_rows.py)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="chains too short to be believed; not with --rows"
    )
    parser.add_argument("--seed", type=int, default=0, help="of who is chosen, of cuts and of draws")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if options.quick and options.rows:
        parser.error("--quick: expected no --rows beside it")
    if (options.run is None) != bool(options.overrides):
        parser.error("--run: expected either a run or options of recsys-vae train, such as dataset=ml-1m")
    for name, value in (("--users", options.users), ("--chain-users", options.chain_users)):
        if value is not None and value < 2:
            parser.error(f"{name}: expected at least 2, came {value}")
    try:
        options.rows = [Row.parse(text) for text in options.rows or (QUICK if options.quick else ROWS)]
    except UserError as error:
        parser.error(f"--rows: {error}")
    return options


def study(recommender: Recommender, options: argparse.Namespace) -> Record:
    """Measure every row on every length of history; write the output as it grows."""
    assert recommender.run is not None
    held_out = recommender.run.held_out(options.part)
    if held_out is None:
        raise UserError(f"run: {recommender.run.path} keeps no histories (save_histories=false)")
    trained = trained_likelihood_power(recommender.run)
    records: list[Record] = []
    report: Record = {
        "machine": describe_machine(),
        "threads": options.threads,
        "run": recommender.run.path.name if options.run else options.overrides,
        "part": options.part,
        "seed": options.seed,
        "trained_likelihood_power": record_power(trained),
        "rows": records,
    }
    encoder = Row.parse(BASELINE)
    strata = make_strata(held_out, options.users, options.seed)
    measure(recommender, strata[0], encoder, None, options.seed)  # the first pass of a process is slow
    for stratum in strata:
        record, baseline = measure(recommender, stratum, encoder, None, options.seed)
        records.append({**record, "against_encoder": None})
        for row in options.rows:
            chains = isinstance(row.method, MarkovChains)
            part = stratum.first(options.chain_users) if chains and options.chain_users else stratum
            for power in row.powers(trained):
                record, per_user = measure(recommender, part, row, power, options.seed)
                records.append({**record, "against_encoder": against(per_user, baseline, options.seed)})
                correct(records)
                write(options.output, json.dumps(report, indent=2) + "\n")
                print(f"{stratum.name}: " + " | ".join(cells(records[-1])), file=sys.stderr, flush=True)
    return report


def write(path: Path, text: str) -> None:
    """Whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    partial.replace(path)


def main() -> int:
    """Train or open the run, study it, print."""
    options = parse_arguments()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        run = options.run
        if run is None:
            run = Path(folder) / "run"
            train(options.overrides, run)
        try:
            report = study(load(run), options)
        except UserError as error:
            print(error, file=sys.stderr)
            return 2
    if options.markdown:
        write(options.markdown, markdown(report["rows"]))
    console = Console(width=None if sys.stdout.isatty() else 180)
    console.print(f"{report['machine']}, {report['threads']} threads", highlight=False)
    print_tables(report["rows"], console)
    return 0


if __name__ == "__main__":
    sys.exit(main())
