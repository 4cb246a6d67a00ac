"""Hold out ratings at random, predict them by Bayesian matrix factorisation; print RMSE and coverage, write a table.

    python scripts/predict_ratings.py dataset=ml-100k --output predictions.parquet
    python scripts/predict_ratings.py dataset=table dataset.path=ratings.csv --latent-dim 20 --checkpoint c.safetensors

The model of Salakhutdinov & Mnih (2008), which ``bpmf`` applies to who liked what, of ratings. Every held-out rating
gets a predictive mean and deviation; with --output a row: user_id, item_id, rating, mean, standard_deviation. Beside it
the error of each item's mean rating, shrunk as empirical Bayes has it. Of a pair that is rated twice, the last counts.
With --checkpoint a chain that was interrupted is carried on by the same command, to the same numbers.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from recsys_vae.cli.config import compose_config
from recsys_vae.cli.runtime import set_threads
from recsys_vae.cli.stages import load_ratings
from recsys_vae.errors import UserError
from recsys_vae.estimation import GaussianStatistics, fit_normal_inverse_gamma
from recsys_vae.exports import check_output, output_file
from recsys_vae.exports.id_columns import ids_to_arrow
from recsys_vae.interactions.ratings_table import RatingsTable
from recsys_vae.models.fit_checkpoint import FitCheckpoint
from recsys_vae.models.rating_prediction import RatingFactorisation

LEVEL = 0.9
SECONDS_BETWEEN_SAVES = 30.0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("overrides", nargs="*", help="of recsys-vae train that name the ratings: dataset...")
    parser.add_argument("--held-out", type=float, default=0.1, help="share of the ratings")
    parser.add_argument("--latent-dim", type=int, default=10, help="the rank")
    parser.add_argument("--n-burn-in", type=int, default=20, help="sweeps that are not kept")
    parser.add_argument("--n-draws", type=int, default=200, help="sweeps that are")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--output", type=Path, help="Parquet")
    parser.add_argument("--checkpoint", type=Path, help="file to keep a long chain in, and to go on from")
    options = parser.parse_args(arguments)
    if not 0.0 < options.held_out < 1.0:
        parser.error(f"--held-out: expected a share between 0 and 1, got {options.held_out}")
    if options.seed < 0:
        parser.error(f"--seed: expected a whole number from 0, got {options.seed}")
    for override in options.overrides:
        if not override.startswith("dataset"):
            parser.error(f"overrides: expected dataset=... and dataset.KEY=..., got {override}")
    return options


def last_of_each_pair(table: RatingsTable) -> np.ndarray:
    """The rows that count, in their order."""
    pairs = table.user_codes.astype(np.int64) * len(table.item_ids) + table.item_codes
    _, from_the_end = np.unique(pairs[::-1], return_index=True)
    rows: np.ndarray = np.sort(table.n_rows - 1 - from_the_end)
    return rows


def item_means(items: np.ndarray, ratings: np.ndarray, n_items: int) -> np.ndarray:
    """Posterior mean of every item's mean rating, under the prior of most evidence."""
    if np.ptp(ratings) == 0.0:
        return np.full(n_items, ratings[0])  # no spread to fit a prior to
    groups = GaussianStatistics.of_groups(ratings, items, n_items)
    prior = fit_normal_inverse_gamma(groups).prior
    means: np.ndarray = prior.posterior(groups).delta.numpy()
    return means


def predict(options: argparse.Namespace) -> Table:
    """Do the work; raises ``UserError``."""
    output = None if options.output is None else check_output(options.output, (".parquet",))
    set_threads(options.threads)
    model = RatingFactorisation(options.latent_dim, options.n_burn_in, options.n_draws, seed=options.seed)
    table = load_ratings(compose_config("train", options.overrides))
    if table.ratings is None:
        raise UserError(f"dataset: {table.source}: expected ratings, came none")
    rows = last_of_each_pair(table)
    users, items = table.user_codes[rows], table.item_codes[rows]
    ratings = table.ratings[rows].astype(np.float64)
    test = np.random.default_rng(options.seed).random(len(rows)) < options.held_out
    if test.all() or not test.any():
        raise UserError(f"--held-out: expected some of {len(rows)} ratings on either side, got {test.sum()}")
    shrunk = item_means(items[~test], ratings[~test], len(table.item_ids))[items[test]]
    found = model.predict(
        users[~test],
        items[~test],
        ratings[~test],
        users[test],
        items[test],
        FitCheckpoint(options.checkpoint, SECONDS_BETWEEN_SAVES),
    )
    if output is not None:
        columns = {
            "user_id": ids_to_arrow(table.user_ids[users[test]]),
            "item_id": ids_to_arrow(table.item_ids[items[test]]),
            "rating": ratings[test],
            "mean": found.mean,
            "standard_deviation": found.standard_deviation,
        }
        with output_file(output) as temporary:
            pq.write_table(pa.table(columns), temporary, compression="zstd")
    shown = Table("predicted by", "RMSE", f"ratings within their {LEVEL:.0%} interval")
    shown.add_row("each item's mean, shrunk", f"{np.sqrt(np.mean((shrunk - ratings[test]) ** 2)):.4f}", "")
    coverage = found.coverage(ratings[test], LEVEL, options.seed)
    error = found.root_mean_square_error(ratings[test])
    shown.add_row(f"Bayesian factorisation, rank {options.latent_dim}", f"{error:.4f}", f"{coverage:.1%}")
    return shown


def main(arguments: Sequence[str] | None = None) -> int:
    """Predict and report; exit code 2 for a mistake of the user's."""
    options = parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        shown = predict(options)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    Console(soft_wrap=True).print(shown)
    return 0


if __name__ == "__main__":
    sys.exit(main())
