"""The table of ``benchmark_peers.py``: figures of the trials that validation chose, and paired tests against one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from peer_ranking import METRICS, SELECTED_BY

from recsys_vae.evaluation import compare_runs

Record = dict[str, Any]
SIGNIFICANT = 0.05


def chosen(trials: Sequence[Record], settings: Sequence[Any]) -> Record:
    """Of the trials with these settings, the one with the best validation score; the first of equals."""
    return max((trial for trial in trials if trial["settings"] in settings), key=lambda t: t["validation"])


def users_of(trials: Sequence[Record], folder: Path) -> pd.DataFrame:
    """Every user's metrics, averaged over the splits that test the user."""
    return mean_of_splits([pd.read_parquet(folder / trial["per_user"]) for trial in trials])


def mean_of_splits(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """One row a user.

    A user may be tested in several splits, and is one user all the same: so that the randomisation test flips the
    sign of users, not of pairs of a user and a split.
    """
    return pd.concat(tables).groupby("user_id", sort=True)[list(METRICS)].mean().reset_index()


def paired_tests(
    picked: dict[str, list[Record]], against: str, folder: Path, permutations: int = 100_000
) -> pd.DataFrame:
    """``compare_runs`` of every system against ``against``, corrected by Holm for all systems and metrics.

    ``picked`` has each system's trials, of the same splits. Differences are the system's minus those of ``against``.
    The permutations are enough for a p below 0.001 after Holm among a hundred tests.
    """
    names = [against, *(name for name in picked if name != against)]
    tables = {name: users_of(picked[name], folder) for name in names}
    return compare_runs(tables, metrics=METRICS, permutations=permutations)


def table_rows(
    picked: dict[str, list[Record]], titles: dict[str, str], against: str, folder: Path
) -> list[dict[str, Any]]:
    """One row a system, the best NDCG@100 first: means over the splits, their standard errors, paired tests.

    With one split, the error is that over its users.
    """
    tests = paired_tests(picked, against, folder) if len(picked) > 1 else pd.DataFrame({"run": []})
    rows = []
    for name, trials in picked.items():
        per_user = [pd.read_parquet(folder / trial["per_user"])[list(METRICS)] for trial in trials]
        means = pd.DataFrame([table.mean() for table in per_user])
        errors = means.sem() if len(means) > 1 else per_user[0].sem()
        own = {row["metric"]: row for row in tests[tests["run"] == name].to_dict("records")}
        rows.append(
            {
                "system": titles[name],
                "versions": trials[-1]["versions"],
                "splits": len(trials),
                "metrics": {m: (float(means[m].mean()), float(errors[m])) for m in METRICS},
                "seconds": {
                    kind: float(np.mean([trial["seconds"][kind] for trial in trials]))
                    for kind in ("to_best", "fit")
                },
                "peak_mib": max(trial["peak_mib"] for trial in trials),
                "tests": {m: {k: float(own[m][k]) for k in ("difference", "stderr", "p_holm")} for m in own},
                "settings": [trial["settings"] for trial in trials],
            }
        )
    return sorted(rows, key=lambda row: -row["metrics"][SELECTED_BY][0])


def markdown(rows: Sequence[Record], against: str, caption: str) -> str:
    """The rows as a table, and what they were measured with."""
    others = [metric for metric in METRICS if metric != SELECTED_BY]
    headings = ["", *METRICS, f"{SELECTED_BY} less {against}'s", "p", "s to best", "s in all", "peak MiB"]
    lines = ["| " + " | ".join(headings) + " |", "| --- " * len(headings) + "|"]
    for row in rows:
        tests = row["tests"]
        marks = {metric: "*" for metric in others if tests and tests[metric]["p_holm"] < SIGNIFICANT}
        cells = [row["system"]]
        cells += [
            f"{mean:.4f} ± {error:.4f}{marks.get(metric, '')}"
            for metric, (mean, error) in row["metrics"].items()
        ]
        if tests:
            first = tests[SELECTED_BY]
            cells += [f"{first['difference']:+.4f} ± {first['stderr']:.4f}", f"{first['p_holm']:.2g}"]
        else:
            cells += ["", ""]
        cells += [
            f"{row['seconds']['to_best']:.1f}",
            f"{row['seconds']['fit']:.1f}",
            f"{row['peak_mib']:.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    legend = (
        f"p: of the difference in {SELECTED_BY}, by randomisation; *: {' or '.join(others)} differs from that of "
        f"{against}, p < {SIGNIFICANT}; both after Holm for all systems and metrics."
    )
    return "\n".join([*lines, "", legend, caption, ""])
