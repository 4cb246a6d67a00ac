"""Metrics by how much was known of the user."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

HISTORY_LENGTHS = {"0": 0, "1-5": 5, "6-20": 20, "21-50": 50, "51-100": 100, ">100": np.iinfo(np.int64).max}
"""Label and longest history of each stratum."""


def history_length_table(per_user: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """One row a stratum of ``n_history`` and metric: ``n`` users with a target, ``mean``, ``stderr``.

    Strata without such a user are left out.
    """
    counted = per_user[per_user["n_target"] > 0]
    stratum = np.searchsorted(list(HISTORY_LENGTHS.values()), counted["n_history"].to_numpy())
    rows = []
    for index, label in enumerate(HISTORY_LENGTHS):
        part = counted.loc[stratum == index, list(metrics)]
        if len(part):
            rows.append(
                pd.DataFrame(
                    {
                        "n_history": label,
                        "metric": list(metrics),
                        "n": len(part),
                        "mean": part.mean().to_numpy(),
                        "stderr": part.sem().to_numpy(),
                    }
                )
            )
    columns = ["n_history", "metric", "n", "mean", "stderr"]
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=columns)
