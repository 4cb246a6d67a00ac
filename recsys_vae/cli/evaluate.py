"""``recsys-vae evaluate``: a finished run, again, on the users that it held out."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from recsys_vae.cli.metric_depth import check_metric_depth
from recsys_vae.cli.metrics_record import metrics_record
from recsys_vae.cli.runtime import console, metrics_table, pick_device, set_threads
from recsys_vae.cli.stages import refuse_null
from recsys_vae.errors import UserError
from recsys_vae.exports import check_output, output_file
from recsys_vae.full_ranking import evaluate_full_ranking
from recsys_vae.recommender import load


def run(config: DictConfig) -> dict[str, Any]:
    """Evaluate, print the table, and return the metrics as they would stand in ``metrics.json``."""
    refuse_null("evaluate", config)
    set_threads(config.threads)
    if config.part not in ("test", "validation"):
        raise UserError(f"part: expected test or validation, came {config.part!r}")
    output = None if config.output is None else check_output(config.output, (".json",))
    recommender = load(config.run, pick_device(config.accelerator))
    check_metric_depth("evaluation.metrics", config.evaluation.metrics, len(recommender.catalogue))
    assert recommender.run is not None
    held_out = recommender.run.held_out(config.part)
    if held_out is None:
        raise UserError(
            f"run: {config.run} keeps no histories (save_histories=false), so it cannot be evaluated"
        )
    began = time.perf_counter()
    result = evaluate_full_ranking(
        recommender.model.score,
        held_out,
        list(config.evaluation.metrics),
        recommender.catalogue.item_counts,
        config.evaluation.batch_size,
    )
    seconds = time.perf_counter() - began
    metrics = metrics_record({config.part: result}, {"evaluate": seconds})
    console.print(metrics_table({config.part: metrics[config.part]}, Path(config.run).name))
    console.print(f"{result.n_users} users, {seconds:.2f} s")
    if output is not None:
        with output_file(output) as temporary:
            temporary.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    return metrics
