"""Judging ranked lists batch by batch; knows no model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Int64, Integer, Num, Shaped
from scipy.sparse import csr_array

from recsys_vae.evaluation.catalogue import catalogue_table, cumulative_counts
from recsys_vae.evaluation.hits import find_hits
from recsys_vae.evaluation.item_popularity import PopularityStrata
from recsys_vae.evaluation.metric_name import parse_metrics
from recsys_vae.evaluation.result import EvaluationResult


class Evaluation:
    """Accumulates the metrics of ranked lists.

    >>> from scipy.sparse import csr_array
    >>> evaluation = Evaluation(["recall@2"], item_counts=np.array([5, 3, 1]))
    >>> ranked, targets = np.array([[2, 0]]), csr_array(np.array([[1, 1, 0]]))
    >>> evaluation.update(ranked, targets, history_lengths=np.array([4]), user_ids=np.array([7]))
    >>> evaluation.result().means
    {'recall@2': 0.5}

    Between batches it holds a few numbers a user and a few an item. The result depends neither on how the
    users are cut into batches, nor on the number of threads: per-user values do not mix users, means are
    taken once over all users, and everything else is counted in integers.
    """

    def __init__(self, metrics: Sequence[str], item_counts: Num[np.ndarray, " items"]) -> None:
        """``metrics`` are names like ``ndcg@100``; ``item_counts`` are the items' training interactions.

        Raises ``UserError`` for a name that ``parse_metric`` refuses, none at all, or one given twice.
        """
        self._metrics = parse_metrics(metrics)
        self._ks = sorted({metric.k for metric in self._metrics})
        self._item_counts = item_counts
        self._recommended = np.zeros((len(self._ks), len(item_counts)), dtype=np.int64)
        self._popularity = PopularityStrata(item_counts, self._ks)
        self._batches: list[pd.DataFrame] = []

    @property
    def depth(self) -> int:
        """How many ranks ``update`` needs: the largest k, or the whole catalogue where that is smaller."""
        return min(self._ks[-1], len(self._item_counts))

    def update(
        self,
        ranked: Int64[np.ndarray, "users ranks"],
        targets: csr_array,
        *,
        history_lengths: Integer[np.ndarray, " users"],
        user_ids: Shaped[np.ndarray, " users"],
    ) -> None:
        """Add a batch of users.

        ``ranked`` holds item indices, best first, without repeats, -1 after the last (as ``ranking.top_k``
        returns them); ``targets`` is ``(users, items)`` in canonical form, a stored entry for each target;
        ``history_lengths`` the number of items that the ranking was made from.

        Raises ``ValueError`` when the shapes do not fit or ``ranked`` has fewer than ``depth`` columns.
        """
        expected = (len(ranked), len(self._item_counts))
        if tuple(targets.shape) != expected:
            raise ValueError(f"targets: expected shape {expected}, got {tuple(targets.shape)}")
        if ranked.shape[1] < self.depth:
            raise ValueError(f"ranked: expected at least {self.depth} columns, got {ranked.shape[1]}")
        ranked = ranked[:, : self.depth]
        hits = find_hits(ranked, targets)
        n_targets = np.diff(targets.indptr).astype(np.int64)
        columns = {"user_id": user_ids, "n_history": history_lengths.astype(np.int64), "n_target": n_targets}
        for metric in self._metrics:
            columns[metric.name] = metric.function(hits, n_targets, metric.k)
        self._batches.append(pd.DataFrame(columns))
        users, ranks = np.nonzero(ranked >= 0)
        self._recommended += cumulative_counts(ranked[users, ranks], ranks, self._ks, len(self._item_counts))
        self._popularity.update(ranked, hits, targets)

    def result(self) -> EvaluationResult:
        """Metrics of all users seen so far. Raises ``ValueError`` when there were none."""
        if not self._batches:
            raise ValueError("expected at least one update before the result")
        return EvaluationResult(
            metrics=tuple(metric.name for metric in self._metrics),
            per_user=pd.concat(self._batches, ignore_index=True),
            catalogue=catalogue_table(self._recommended, self._ks, self._item_counts),
            by_item_popularity=self._popularity.table(),
        )
