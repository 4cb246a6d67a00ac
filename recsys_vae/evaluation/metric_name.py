"""Metric names such as ``ndcg@100``: the only place that reads them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from recsys_vae.errors import UserError, nearest
from recsys_vae.evaluation.metrics import METRICS, MetricFunction


class Metric(NamedTuple):
    """A metric at a cut-off: ``function(hits, n_targets, k)``, named as the user does, e.g. ``ndcg@100``."""

    name: str
    function: MetricFunction
    k: int


def parse_metric(name: str, argument: str = "metrics") -> Metric:
    """Read ``METRIC@K``; ``argument`` is what a mistake is reported as.

    Raises ``UserError`` for an unknown metric (it says the nearest name) and for a k that is not a whole
    number from 1 to 999,999,999 in plain digits.
    """
    kind, at, cutoff = name.strip().partition("@")
    if kind not in METRICS:
        raise UserError(
            f"{argument}: expected a name such as ndcg@100, got {name!r}; {nearest(kind, METRICS)}"
        )
    if not at or not re.fullmatch(r"[1-9][0-9]{0,8}", cutoff):
        raise UserError(
            f"{argument}: expected a whole number k from 1 up in METRIC@K, as in {kind}@100, got {name!r}"
        )
    return Metric(f"{kind}@{cutoff}", METRICS[kind], int(cutoff))


def parse_metrics(names: Sequence[str], argument: str = "metrics") -> list[Metric]:
    """Read several names; one string may also hold a list with commas. They keep their order.

    Raises ``UserError`` where ``parse_metric`` does, for a name given twice and for no name at all.
    """
    metrics = [
        parse_metric(str(name), argument) for name in (names.split(",") if isinstance(names, str) else names)
    ]
    if not metrics:
        raise UserError(f"{argument}: expected at least one name such as ndcg@100, got an empty list")
    seen: set[str] = set()
    for metric in metrics:
        if metric.name in seen:
            raise UserError(f"{argument}: expected each name once, got {metric.name!r} twice")
        seen.add(metric.name)
    return metrics
