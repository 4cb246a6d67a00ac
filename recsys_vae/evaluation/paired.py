"""Comparing runs user by user: the same users, so their differences say more than two means apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from recsys_vae.errors import UserError
from recsys_vae.evaluation.bootstrap import bootstrap_interval
from recsys_vae.evaluation.holm import holm
from recsys_vae.evaluation.sign_flip import sign_flip_p_values

_NOT_METRICS = ("user_id", "n_history", "n_target")


def compare_runs(
    runs: Mapping[str, pd.DataFrame],
    *,
    metrics: Sequence[str] | None = None,
    all_pairs: bool = False,
    resamples: int = 1000,
    permutations: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Paired differences of the runs' per-user metrics, each run against the first, or every pair.

    ``runs`` maps a name to the ``per_user`` table of an ``EvaluationResult`` (or of ``per_user.parquet``),
    in any order of users. ``metrics`` are by default those that all runs have, in the order of the first.

    Returns one row a pair and metric: ``run``, ``baseline``, ``metric``, ``n`` (users with a target),
    ``mean`` and ``baseline_mean``, ``difference`` (run minus baseline), its ``stderr``, its bootstrap
    interval ``low`` to ``high``, the two-sided ``p_value`` of the sign-flip randomisation test, and
    ``p_holm``, corrected by Holm for all rows of the table.

    Raises ``UserError`` for fewer than two runs, runs over different users, or a metric that a run lacks.
    """
    if len(runs) < 2:
        raise UserError(f"runs: expected two or more to compare, got {len(runs)}")
    aligned = _align(runs)
    names = list(aligned)
    shared = _shared_metrics(aligned, metrics)
    pairs = list(combinations(names, 2)) if all_pairs else [(names[0], name) for name in names[1:]]
    tables = []
    for baseline, run in pairs:
        both = np.stack(
            [aligned[run][shared].to_numpy(np.float64), aligned[baseline][shared].to_numpy(np.float64)]
        )
        both = both[:, ~np.isnan(both).any(axis=(0, 2))]
        differences = both[0] - both[1]
        interval = bootstrap_interval(differences, resamples=resamples, level=level, seed=seed)
        n_users = len(differences)
        frame = pd.DataFrame(differences, columns=shared)
        tables.append(
            pd.DataFrame(
                {
                    "run": run,
                    "baseline": baseline,
                    "metric": shared,
                    "n": n_users,
                    "mean": pd.DataFrame(both[0], columns=shared).mean().to_numpy(),
                    "baseline_mean": pd.DataFrame(both[1], columns=shared).mean().to_numpy(),
                    "difference": frame.mean().to_numpy(),
                    "stderr": frame.sem().to_numpy(),
                    "low": interval[:, 0],
                    "high": interval[:, 1],
                    "p_value": sign_flip_p_values(differences, permutations=permutations, seed=seed),
                }
            )
        )
    table = pd.concat(tables, ignore_index=True)
    table["p_holm"] = holm(table["p_value"].to_numpy())
    return table


def _align(runs: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Put every run's users in the order of the first run's."""
    aligned: dict[str, pd.DataFrame] = {}
    users: pd.Index | None = None
    first = next(iter(runs))
    for name, per_user in runs.items():
        table = per_user.set_index("user_id")
        if not table.index.is_unique:
            raise UserError(
                f"runs: expected each user once in {name!r}, got "
                f"user {table.index[table.index.duplicated()][0]!r} twice"
            )
        if users is None:
            users = table.index
        elif len(users) != len(table) or not users.isin(table.index).all():
            raise UserError(
                f"runs: expected the same users in all, got {len(users)} users in {first!r}, "
                f"{len(table)} in {name!r}, {int(users.isin(table.index).sum())} in both"
            )
        aligned[name] = table.loc[users]
    return aligned


def _shared_metrics(runs: Mapping[str, pd.DataFrame], metrics: Sequence[str] | None) -> list[str]:
    """The metrics asked for, or those that all runs have."""
    first = next(iter(runs.values()))
    shared = [
        column
        for column in first.columns
        if column not in _NOT_METRICS and all(column in run for run in runs.values())
    ]
    missing = [metric for metric in metrics or () if metric not in shared]
    if missing or not shared:
        raise UserError(
            f"metrics: expected some that all runs have ({', '.join(shared) or 'there are none'}), "
            f"got {', '.join(missing) or 'runs without one in common'}"
        )
    return list(metrics) if metrics else shared
