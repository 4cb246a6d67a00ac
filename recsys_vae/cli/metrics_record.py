"""What ``metrics.json`` says of a run: JSON types only, in the form that the report shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recsys_vae.evaluation import EvaluationResult

Record = dict[str, Any]


def metrics_record(results: Mapping[str, EvaluationResult], seconds: Mapping[str, float]) -> Record:
    """Means, standard errors and intervals of each part; of the last one, the tables too.

    Args:
        results: ``validation`` and ``test``, or one of them.
        seconds: stage -> wall time.
    """
    record: Record = {part: result.summary() for part, result in results.items()}
    record |= {f"n_{part}_users": result.n_users for part, result in results.items()}
    tables = list(results.values())[-1].tables()
    record["by_history_length"] = _by_history_length(tables["by_history_length"])
    record["by_item_popularity"] = _by_item_popularity(tables["by_item_popularity"])
    record["beyond_accuracy"] = {
        f"{name}@{row['k']}": row[name]
        for name in ("coverage", "popularity", "novelty", "gini")
        for row in tables["catalogue"]
    }
    record["seconds"] = {stage: round(duration, 4) for stage, duration in seconds.items()}
    return record


def _by_history_length(rows: list[Record]) -> list[Record]:
    """One row a stratum: its users, and each metric's mean and standard error."""
    strata: dict[str, Record] = {}
    for row in rows:
        stratum = strata.setdefault(row["n_history"], {"history": row["n_history"], "users": row["n"]})
        stratum[row["metric"]] = {"mean": row["mean"], "stderr": row["stderr"]}
    return list(strata.values())


def _by_item_popularity(rows: list[Record]) -> list[Record]:
    """One row a fifth of the interactions, most popular items first: pooled recall at each k."""
    buckets: dict[str, Record] = {}
    for row in rows:
        bucket = buckets.setdefault(
            row["interactions"],
            {"interactions": row["interactions"], "items": row["n_items"], "targets": row["n_targets"]},
        )
        bucket[f"pooled_recall@{row['k']}"] = {"mean": row["found"], "stderr": row["stderr"]}
    return list(buckets.values())
