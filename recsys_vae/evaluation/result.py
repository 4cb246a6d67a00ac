"""What an evaluation found: every user's metrics first, and the tables that follow from them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from recsys_vae.evaluation.bootstrap import bootstrap_interval
from recsys_vae.evaluation.history_length import history_length_table


@dataclass(frozen=True)
class EvaluationResult:
    """Metrics of one part of a split.

    ``per_user`` has one row a user in the order of evaluation, with columns ``user_id``, ``n_history``,
    ``n_target`` and one a metric; the metrics of a user without a target are NaN and count nowhere.
    ``catalogue`` and ``by_item_popularity`` are described at ``catalogue_table`` and
    ``PopularityStrata.table``.
    """

    metrics: tuple[str, ...]
    per_user: pd.DataFrame
    catalogue: pd.DataFrame
    by_item_popularity: pd.DataFrame

    @property
    def n_users(self) -> int:
        """Number of users with a target: those over whom the means run."""
        return int((self.per_user["n_target"] > 0).sum())

    @cached_property
    def means(self) -> dict[str, float]:
        """Mean of each metric over the users with a target; NaN if there is none."""
        return {metric: float(self.per_user[metric].mean()) for metric in self.metrics}

    @cached_property
    def by_history_length(self) -> pd.DataFrame:
        """Mean and standard error of each metric by length of history; see ``history_length_table``."""
        return history_length_table(self.per_user, self.metrics)

    def summary(self, *, resamples: int = 1000, level: float = 0.95, seed: int = 0) -> dict[str, Any]:
        """``{metric: {"mean", "stderr", "interval": [low, high]}}`` in JSON types; NaN becomes None.

        ``stderr`` is the standard deviation over users (n - 1 in the denominator) over sqrt(n).
        ``interval`` is the percentile bootstrap over users, see ``bootstrap_interval``; ``resamples=0``
        leaves it out.
        """
        values = self.per_user.loc[self.per_user["n_target"] > 0, list(self.metrics)]
        errors = values.sem()
        summary: dict[str, Any] = {
            metric: {"mean": self.means[metric], "stderr": float(errors[metric])} for metric in self.metrics
        }
        if resamples:
            array = values.to_numpy(dtype=np.float64)
            intervals = bootstrap_interval(array, resamples=resamples, level=level, seed=seed)
            for metric, interval in zip(self.metrics, intervals.tolist(), strict=True):
                summary[metric]["interval"] = interval
        return _without_nan(summary)  # type: ignore[no-any-return]

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """The three tables as lists of records in JSON types; NaN becomes None."""
        frames = {
            "catalogue": self.catalogue,
            "by_history_length": self.by_history_length,
            "by_item_popularity": self.by_item_popularity,
        }
        return {name: _without_nan(frame.to_dict("records")) for name, frame in frames.items()}


def _without_nan(value: Any) -> Any:
    """Replace NaN, which JSON does not have, by None, and numpy's numbers by Python's."""
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_without_nan(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and math.isnan(value) else value
