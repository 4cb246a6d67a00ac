"""Whether a metric's k makes sense for a catalogue."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from recsys_vae.cli.config import config_defaults
from recsys_vae.errors import UserError
from recsys_vae.evaluation import parse_metric

log = logging.getLogger(__name__)


def check_metric_depth(names: Sequence[str], n_items: int) -> None:
    """Refuse a metric whose k exceeds the catalogue, unless it is one that is reported by default.

    The defaults stay defined for a small catalogue (the whole of it is ranked), so that no data set needs tuning;
    a k that somebody asked for, beyond the number of items, is a mistake.
    """
    for name in names:
        metric = parse_metric(name)
        if metric.k <= n_items:
            continue
        if metric.name not in config_defaults("evaluate").evaluation.metrics:
            raise UserError(
                f"evaluation.metrics: {name}: expected k of at most {n_items} (the catalogue), came {metric.k}"
            )
        log.warning("%s: the catalogue has only %d items; all of them are ranked", name, n_items)
