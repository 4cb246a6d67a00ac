"""Measure the factor models against other authors' programs; print a table, write JSON.

    pip install -e '.[bench]'
    python scripts/benchmark_ideas.py dataset=ml-1m --output ideas.json

The programs are those that this environment has; ``--implicit PYTHON``, and so on, names another environment with the
program. One that is nowhere leaves its row out. Ours and the peer's turns alternate, on the same data with as many
threads; seconds are those of an iteration, of the quickest turn, and the ratio is theirs over ours, above 1 where ours
is quicker.

implicit  ``wmf``: alternations of the same objective with the same steps of conjugate gradients, and test NDCG@100 at
          equal rank and regularisation. With --table also on a table such as synthetic_movielens20m.py writes.
hpfrec    ``hpf``: iterations of the same ascent, and test NDCG@100 of both programs' items under our folding in.
myfm      ``bpmf`` of explicit ratings: sweeps, and test RMSE. A tenth of all ratings is held out at random.
"""

from __future__ import annotations

import argparse
import datetime as dt
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import scipy.sparse as sp
import torch
from machine import describe_machine
from peer_split import read_split, write_peer_split
from predict_ratings import last_of_each_pair
from rich.console import Console
from rich.table import Table

from recsys_vae.atomic import atomic_path
from recsys_vae.cli.config import compose_config
from recsys_vae.cli.stages import load_ratings
from recsys_vae.errors import UserError
from recsys_vae.full_ranking import evaluate_full_ranking
from recsys_vae.interactions import Split
from recsys_vae.models import HPF, WMF
from recsys_vae.models.rating_prediction import RatingFactorisation

# implicit's objective is ours over the unobserved weight, its alpha the confidence of an interaction of 1.
UNOBSERVED_WEIGHT, REGULARISATION = 0.25, 1.0
N_BURN_IN = 20


def peer(
    python: Path, program: str, folder: Path, options: argparse.Namespace, rank: int, iterations: int
) -> dict[str, Any]:
    """One turn of another program."""
    script = Path(__file__).with_name("factor_peers.py")
    arguments = [
        "--rank",
        rank,
        "--iterations",
        iterations,
        "--threads",
        options.threads,
        "--seed",
        options.seed,
    ]
    arguments += [
        "--burn-in",
        N_BURN_IN,
        "--regularization",
        REGULARISATION,
        "--alpha",
        1 + 1 / UNOBSERVED_WEIGHT,
    ]
    command = [str(python), "-W", "ignore", str(script), program, str(folder), *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise UserError(f"{program}: {python} failed: {last[0]}")
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def alternate(ours: Callable[[], float], theirs: Callable[[], dict[str, Any]], turns: int) -> dict[str, Any]:
    """Seconds of an iteration, ours and theirs, turn by turn."""
    rows = []
    for _ in range(turns):
        mine, other = ours(), theirs()
        rows.append((mine, other["seconds"]))
    best = [min(column) for column in zip(*rows, strict=True)]
    return {
        "seconds": best[0],
        "peer_seconds": best[1],
        "times": best[1] / best[0],
        "ratios_of_turns": [other / mine for mine, other in rows],
        "peer_version": other["version"],
    }


def timed_iterations(states: Any) -> tuple[float, Any]:
    """Median seconds of the steps of an iterator after the first, which prepares, too; and the last state."""
    seconds, state, began = [], None, time.perf_counter()
    for state in states:  # noqa: B007
        seconds.append(time.perf_counter() - began)
        began = time.perf_counter()
    return float(np.median(seconds[1:])), state


def ndcg(split: Split, score: Any) -> float:
    """Test NDCG@100."""
    return evaluate_full_ranking(score, split.test, ["ndcg@100"], split.train.item_counts).means["ndcg@100"]


def measure_wmf(
    matrix: sp.csr_array, folder: Path, options: argparse.Namespace
) -> tuple[dict[str, Any], WMF]:
    """``wmf`` against implicit on what lies in the folder."""
    model = WMF(
        matrix.shape[1],
        options.rank,
        l2=REGULARISATION * UNOBSERVED_WEIGHT,
        unobserved_weight=UNOBSERVED_WEIGHT,
        frequency_exponent=0.0,
        n_iterations=options.iterations,
        seed=options.seed,
    )
    last: list[Any] = []

    def ours() -> float:
        seconds, state = timed_iterations(model.alternations(matrix))
        last[:] = [state]
        return seconds

    row = alternate(
        ours,
        lambda: peer(options.implicit, "implicit", folder, options, options.rank, options.iterations),
        options.turns,
    )
    model.item_factors.copy_(last[0].items)
    return row, model


def measure_implicit(options: argparse.Namespace, split: Split, folder: Path) -> list[dict[str, Any]]:
    """On the split, with accuracy, and on the table."""
    row, model = measure_wmf(split.train.matrix, folder, options)
    theirs = np.load(folder / "implicit.npz")
    vectors = {name: torch.from_numpy(theirs[name]) for name in ("users", "items")}
    done = [0]

    def score_theirs(histories: Any) -> torch.Tensor:
        start, done[0] = done[0], done[0] + histories.shape[0]
        return vectors["users"][start : done[0]] @ vectors["items"].mT

    accuracy = {"ours": ndcg(split, model.score), "theirs": ndcg(split, score_theirs)}
    rows = [{"what": "wmf, an alternation", "peer": "implicit", **row, "measure": "NDCG@100", **accuracy}]
    if options.table is not None:
        table = pq.read_table(options.table, columns=["user_id", "item_id"])
        codes = [np.unique(table[name].to_numpy(), return_inverse=True)[1] for name in ("user_id", "item_id")]
        matrix = sp.csr_array(sp.coo_array((np.ones(len(codes[0]), np.float32), tuple(codes))))
        with tempfile.TemporaryDirectory() as other:
            sp.save_npz(Path(other) / "train.npz", matrix, compressed=False)
            row, _ = measure_wmf(matrix, Path(other), options)
        rows.append({"what": f"wmf, an alternation, {options.table.stem}", "peer": "implicit", **row})
    return rows


def measure_hpfrec(options: argparse.Namespace, split: Split, folder: Path) -> list[dict[str, Any]]:
    """``hpf`` against hpfrec."""
    model = HPF(split.train.n_items, options.rank, n_iterations=options.ascent_iterations, seed=options.seed)
    last: list[Any] = []

    def ours() -> float:
        seconds, state = timed_iterations(model.ascent(split.train.matrix))
        last[:] = [state]
        return seconds

    row = alternate(
        ours,
        lambda: peer(options.hpfrec, "hpfrec", folder, options, options.rank, options.ascent_iterations),
        options.turns,
    )
    theirs = np.load(folder / "hpfrec.npz")
    accuracy = {}
    items = {"ours": last[0].items, "theirs": [torch.from_numpy(theirs[name]) for name in ("shape", "rate")]}
    for name, (shape, rate) in items.items():
        model.item_factor_shape.copy_(shape)
        model.item_factor_rate.copy_(rate)
        accuracy[name] = ndcg(split, model.score)
    return [{"what": "hpf, an iteration", "peer": "hpfrec", **row, "measure": "NDCG@100", **accuracy}]


def measure_myfm(options: argparse.Namespace, split: Split, folder: Path) -> list[dict[str, Any]]:
    """``bpmf`` of ratings against myfm."""
    table = load_ratings(compose_config("train", options.explicit or options.ratings))
    if table.ratings is None:
        raise UserError(f"dataset: {table.source}: expected ratings, came none")
    rows = last_of_each_pair(table)
    held_out = np.random.default_rng(options.seed).random(len(rows)) < 0.1
    users, items = table.user_codes[rows], table.item_codes[rows]
    ratings = table.ratings[rows].astype(np.float64)
    np.savez(folder / "ratings.npz", users=users, items=items, ratings=ratings, held_out=held_out)
    kept = ~held_out
    model = RatingFactorisation(options.rating_rank, N_BURN_IN, options.draws, seed=options.seed)
    found: list[Any] = []

    def ours() -> float:
        began = time.perf_counter()
        found[:] = [model.predict(users[kept], items[kept], ratings[kept], users[held_out], items[held_out])]
        return (time.perf_counter() - began) / (N_BURN_IN + options.draws)

    row = alternate(
        ours,
        lambda: peer(options.myfm, "myfm", folder, options, options.rating_rank, options.draws),
        options.turns,
    )
    error = np.load(folder / "myfm.npz")["mean"] - ratings[held_out]
    return [
        {
            "what": "bpmf of ratings, a sweep",
            "peer": "myfm",
            **row,
            "measure": "RMSE",
            "ours": found[0].root_mean_square_error(ratings[held_out]),
            "theirs": float(np.sqrt(np.mean(error**2))),
            "coverage_of_90_percent": found[0].coverage(ratings[held_out], 0.9),
        }
    ]


def show(rows: list[dict[str, Any]], console: Console) -> None:
    """A table."""
    table = Table(title="seconds of an iteration")
    for name in ("what", "ours", "peer", "theirs", "times as quick", "measure", "ours", "theirs"):
        table.add_column(name, justify="left" if name in ("what", "peer", "measure") else "right")
    for row in rows:
        figures = [f"{row[name]:.4f}" if name in row else "" for name in ("ours", "theirs")]
        table.add_row(
            row["what"],
            f"{row['seconds']:.4f}",
            f"{row['peer']} {row['peer_version']}",
            f"{row['peer_seconds']:.4f}",
            f"{row['times']:.2f}",
            row.get("measure", ""),
            *figures,
        )
    console.print(table)


def main() -> int:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ratings", nargs="*", help="overrides of recsys-vae train that name the ratings")
    parser.add_argument("--output", type=Path, required=True, help="JSON")
    measures = {"implicit": measure_implicit, "hpfrec": measure_hpfrec, "myfm": measure_myfm}
    for program in measures:
        here = Path(sys.executable) if importlib.util.find_spec(program) else None
        parser.add_argument(
            f"--{program}", type=Path, default=here, help=f"python of an environment with {program}"
        )
    parser.add_argument(
        "--programs", nargs="+", choices=measures, default=list(measures), help="to compare with"
    )
    parser.add_argument("--table", type=Path, help="Parquet with user_id and item_id, for wmf too")
    parser.add_argument(
        "--explicit", nargs="+", help="overrides that name the ratings for bpmf; default: the others"
    )
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--rating-rank", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=15, help="of wmf")
    parser.add_argument("--ascent-iterations", type=int, default=100, help="of hpf")
    parser.add_argument("--draws", type=int, default=200, help="of bpmf")
    parser.add_argument("--turns", type=int, default=3, help="of each program")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if options.iterations < 2 or options.ascent_iterations < 2:
        parser.error("--iterations, --ascent-iterations: expected at least 2, the first of which warms up")
    for program in options.programs:
        python = getattr(options, program)
        if python is not None and not python.exists():
            parser.error(f"--{program}: expected a python that exists, got {python}")
    torch.set_num_threads(options.threads)
    report: dict[str, Any] = {
        "machine": describe_machine(),
        "threads": options.threads,
        "date": dt.date.today().isoformat(),
        "seed": options.seed,
        "rows": [],
    }
    try:
        split = read_split(options.ratings, options.seed)
        with tempfile.TemporaryDirectory() as folder:
            write_peer_split(split, Path(folder))
            for program in options.programs:
                if getattr(options, program) is not None:
                    report["rows"] += measures[program](options, split, Path(folder))
                    print(f"measured: {program}", file=sys.stderr)
                    with atomic_path(options.output) as temporary:
                        temporary.write_text(json.dumps(report, indent=1))
    except UserError as error:
        parser.error(str(error))
    show(report["rows"], Console(width=150))
    return 0


if __name__ == "__main__":
    sys.exit(main())
