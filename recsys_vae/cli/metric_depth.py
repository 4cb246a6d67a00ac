"""Whether a metric's k makes sense for a catalogue."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence

from omegaconf import OmegaConf

from recsys_vae.bundled import bundled_path
from recsys_vae.errors import UserError
from recsys_vae.evaluation.metric_name import parse_metrics

log = logging.getLogger(__name__)


def check_metric_depth(argument: str, names: Sequence[str], n_items: int) -> None:
    """Refuse what is no metric, and a k beyond the catalogue, unless the metric is one that is reported by default.

    The defaults stay defined for a small catalogue (the whole of it is ranked), so that no data set needs tuning;
    a k that somebody asked for, beyond the number of items, is a mistake.
    """
    for metric in parse_metrics(list(names), argument):
        name = metric.name
        if metric.k <= n_items:
            continue
        if name not in _reported_by_default():
            raise UserError(
                f"{argument}: {name}: expected k of at most {n_items} (the catalogue), came {metric.k}"
            )
        log.warning("%s: the catalogue has only %d items; all of them are ranked", name, n_items)


@functools.cache
def _reported_by_default() -> frozenset[str]:
    return frozenset(OmegaConf.load(bundled_path("configs", "evaluation", "default.yaml")).metrics)
