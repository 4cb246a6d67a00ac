"""``recsys-vae evaluate``: a finished run, again, on the users that it held out, by a posterior of choice."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from recsys_vae.cli.likelihoods import check_likelihood, report_likelihood
from recsys_vae.cli.metric_depth import check_metric_depth
from recsys_vae.cli.metrics_record import metrics_record
from recsys_vae.cli.posteriors import build_method, print_diagnostics, progress_bar, use_posterior
from recsys_vae.cli.runtime import console, metrics_table, pick_device, set_threads
from recsys_vae.cli.stages import refuse_null
from recsys_vae.errors import UserError
from recsys_vae.exports import check_output, output_file
from recsys_vae.full_ranking import evaluate_full_ranking
from recsys_vae.models.base import check_positive
from recsys_vae.posterior.likelihood_power import record_power, show_power
from recsys_vae.recommender import load


def run(config: DictConfig) -> dict[str, Any]:
    """Evaluate, print the table, and return the metrics as they would stand in ``metrics.json``."""
    refuse_null("evaluate", config)
    set_threads(config.threads)
    if config.part not in ("test", "validation"):
        raise UserError(f"part: expected test or validation, came {config.part!r}")
    check_likelihood(config)
    output = None if config.output is None else check_output(config.output, (".json",))
    method = build_method(config)
    check_positive("evaluation.batch_size", config.evaluation.batch_size)
    recommender = load(config.run, pick_device(config.accelerator))
    check_metric_depth("evaluation.metrics", config.evaluation.metrics, len(recommender.catalogue))
    assert recommender.run is not None
    held_out = recommender.run.held_out(config.part)
    if held_out is None:
        raise UserError(
            f"run: {config.run} keeps no histories (save_histories=false), so it cannot be evaluated"
        )
    began = time.perf_counter()
    with progress_bar(held_out.n_users, method.batch_size) as progress:
        inference = use_posterior(recommender, method, config, progress)
        result = evaluate_full_ranking(
            recommender.model.score if inference is None else inference.score,
            held_out,
            list(config.evaluation.metrics),
            recommender.catalogue.item_counts,
            # What a method that draws gives depends on its batches: they are the method's own.
            config.evaluation.batch_size if inference is None else method.batch_size,
        )
    seconds = time.perf_counter() - began
    metrics = metrics_record({config.part: result}, {"evaluate": seconds})
    console.print(metrics_table({config.part: metrics[config.part]}, Path(config.run).name))
    console.print(f"{result.n_users} users, {seconds:.2f} s")
    if inference is not None:
        found = inference.diagnostics()
        metrics["posterior"] = {
            "method": type(method).__name__,
            "likelihood_power": record_power(inference.likelihood_power),
            "diagnostics": {name: _finite_median(values) for name, values in found.items()},
        }
        console.print(
            f"posterior: {type(method).__name__}, likelihood_power {show_power(inference.likelihood_power)}, "
            f"{1000.0 * seconds / held_out.n_users:.2f} s for 1,000 users"
        )
        print_diagnostics(found, "diagnostics of the users")
    if config.likelihood is not None:
        metrics["log_likelihood"] = report_likelihood(recommender, held_out.history, config)
    if output is not None:
        with output_file(output) as temporary:
            temporary.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    return metrics


def _finite_median(values: np.ndarray) -> float | None:
    """JSON has no infinity, which is what k_hat may be."""
    median = float(np.nanmedian(values))
    return median if math.isfinite(median) else None
