"""``recsys-vae train``: from a table of ratings to a run directory."""

from __future__ import annotations

import contextlib
import logging
import math
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from omegaconf import DictConfig, OmegaConf

from recsys_vae.catalogue import Catalogue
from recsys_vae.cli.metric_depth import check_metric_depth
from recsys_vae.cli.metrics_record import metrics_record
from recsys_vae.cli.runtime import (
    console,
    in_terminal,
    is_first_process,
    log_file,
    metrics_table,
    pick_device,
    quiet_lightning,
    set_threads,
)
from recsys_vae.cli.stages import (
    build,
    dataset_name,
    filter_ratings,
    load_ratings,
    refuse_null,
    split_interactions,
)
from recsys_vae.errors import UserError
from recsys_vae.evaluation import EvaluationResult
from recsys_vae.exports import RunWriter, default_run_path
from recsys_vae.exports.report import render_report
from recsys_vae.exports.run_directory import interrupted_run_path
from recsys_vae.full_ranking import evaluate_full_ranking
from recsys_vae.fusion import choose_fusion
from recsys_vae.interactions import Split
from recsys_vae.interactions.datamodule import HistoryDataModule
from recsys_vae.models import ClosedFormModel, GradientModel, Hybrid, IterativeModel, RecommenderModel
from recsys_vae.models.base import check_interval, check_positive
from recsys_vae.models.fit_checkpoint import FitCheckpoint
from recsys_vae.recommender import Recommender
from recsys_vae.training import Fit, VAETrainer, supports_fast_bfloat16

log = logging.getLogger(__name__)

# What a resumed run may be given anew: where it is and how it is shown, not what it computes.
_FREE_ON_RESUME = {
    "run",
    "resume",
    "checkpoint_seconds",
    "trainer.progress_bar",
    "trainer.checkpoint_seconds",
}
_N_SAMPLES_IN_REPORT = 5


def run(config: DictConfig) -> Path:
    """Train, evaluate on validation and test, write the run directory, and return its path."""
    quiet_lightning()
    refuse_null("train", config)
    set_threads(config.threads)
    check_positive("evaluation.batch_size", config.evaluation.batch_size)
    check_interval("checkpoint_seconds", config.checkpoint_seconds, 0.0, math.inf)
    if not 0 <= config.seed < 2**32:
        raise UserError(f"seed: expected a whole number from 0 to {2**32 - 1}, came {config.seed!r}")
    if not is_first_process():
        split = _split(config)
        _fit(config, _model(config, split), split, None, lambda row: None)
        raise SystemExit(0)
    path = _run_path(config)
    with RunWriter.begin(path, resume=config.resume) as writer:
        if config.resume:
            _check_same_configuration(writer.directory / "config.yaml", config)
        with log_file(writer.log_path):
            _train(config, writer)
        final = writer.finalize()
    console.print(f"run directory: {final}")
    return final


def read_split(config: DictConfig) -> Split:
    """The split that :func:`run` trains on."""
    refuse_null("train", config)
    return _split(config)


def fit_and_validate(
    config: DictConfig, split: Split, on_epoch: Callable[[Any], None] = lambda row: None
) -> EvaluationResult:
    """Train as :func:`run` does, without a run directory, and judge the model on the validation users alone.

    ``on_epoch`` receives a row of figures after each epoch, where the model has epochs; what it raises ends the fit.
    """
    quiet_lightning()
    refuse_null("train", config)
    check_metric_depth("evaluation.metrics", config.evaluation.metrics, split.train.n_items)
    model = _model(config, split)
    _fit(config, model, split, None, on_epoch)
    return _evaluate(config, model, split, "validation")


def _train(config: DictConfig, writer: RunWriter) -> None:
    seconds: dict[str, float] = {}
    with _timed(seconds, "load"):
        split = _split(config)
    if config.resume and (writer.directory / "split.json").exists():
        _check_same_split(writer.directory / "split.json", split)
    model = _model(config, split)
    check_metric_depth("evaluation.metrics", config.evaluation.metrics, split.train.n_items)
    if not (writer.directory / "config.yaml").exists():  # a resumed run computes what this file says already
        writer.write_config(OmegaConf.to_container(config, resolve=True))  # type: ignore[arg-type]
    writer.write_split(split.manifest, split.sha256)
    with _timed(seconds, "fit"):
        fit = _fit(config, model, split, writer, lambda row: writer.write_history([row]))
    if fit is not None:
        seconds["training_epochs"] = fit.seconds
    with _timed(seconds, "evaluate"):
        results = {
            "validation": _evaluate(config, model, split, "validation"),
            "test": _evaluate(config, model, split, "test"),
        }
    metrics = metrics_record(results, seconds)
    metrics["n_parameters"] = sum(tensor.numel() for tensor in model.state_dict().values())
    if fit is not None:
        metrics |= {"best_epoch": fit.best_epoch, "n_epochs": fit.n_epochs}
    writer.write_weights(model.state_dict())
    writer.write_items(split.train.item_ids, split.train.titles, split.train.item_counts)
    if config.save_histories:
        writer.write_users(split)
    writer.write_metrics(metrics)
    writer.write_per_user(results["test"].per_user)
    writer.write_report(_report(config, model, split, metrics, writer))
    title = f"{dataset_name(config)}, {_model_name(config)}, seed {config.seed}"
    console.print(metrics_table({part: metrics[part] for part in results}, title))


def _run_path(config: DictConfig) -> Path:
    if config.run is not None:
        return Path(config.run)
    choose = interrupted_run_path if config.resume else default_run_path
    return choose("runs", _model_name(config), dataset_name(config), config.seed)


def _model_name(config: DictConfig) -> str:
    """The class's name in lower case, ``mult_vae`` for ``MultVAE``: what ``model=`` chose."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", str(config.model._target_).rpartition(".")[2]).lower()


def _split(config: DictConfig) -> Split:
    return split_interactions(config, filter_ratings(config, load_ratings(config)).interactions)


def _model(config: DictConfig, split: Split) -> RecommenderModel:
    model: RecommenderModel = build(config.model, n_items=split.train.n_items)
    return model


def _fit(
    config: DictConfig,
    model: RecommenderModel,
    split: Split,
    writer: RunWriter | None,
    on_epoch: Callable[[Any], None],
) -> Fit | None:
    if isinstance(model, IterativeModel) and writer is not None:
        path = writer.checkpoint_directory / "fit.safetensors"
        model.fit(split.train.matrix, FitCheckpoint(path, config.checkpoint_seconds))
        return None
    if isinstance(model, ClosedFormModel):
        model.fit(split.train.matrix)
        return None
    if isinstance(model, Hybrid):
        return _fit_hybrid(config, model, split, writer, on_epoch)
    assert isinstance(model, GradientModel)
    trainer: VAETrainer = build(
        config.trainer, progress_bar=config.trainer.progress_bar and in_terminal() and is_first_process()
    )
    if trainer.monitor not in config.evaluation.metrics:
        check_metric_depth("trainer.monitor", [trainer.monitor], split.train.n_items)
    on_cpu = pick_device(trainer.accelerator).type == "cpu"
    if on_cpu and "bf16" in str(trainer.precision) and not supports_fast_bfloat16():
        log.warning("trainer.precision: this CPU has no bfloat16 arithmetic, so 32-true would be quicker")
    item_counts = split.train.item_counts

    def validate(candidate: GradientModel) -> dict[str, float]:
        result = evaluate_full_ranking(
            candidate.score, split.validation, [trainer.monitor], item_counts, config.evaluation.batch_size
        )
        if not result.n_users:
            raise UserError("split: expected validation users with a target, came none; hold more users out")
        return result.means

    def record(row: Any) -> None:
        on_epoch(row)
        log.info(
            "epoch %d: loss %.2f, kl %.2f, kl_weight %.3f, validation %s %.4f, %.2f s",
            *(row["epoch"], row["loss"], row["kl"], row["kl_weight"]),
            *(trainer.monitor, row[f"validation_{trainer.monitor}"], row["seconds"]),
        )

    fit = trainer.fit(
        model,
        HistoryDataModule(split.train.matrix, trainer.batch_size, config.seed),
        validate,
        seed=config.seed,
        directory=None if writer is None else writer.directory,
        on_epoch=record,
        on_start=lambda epoch: None if writer is None else writer.truncate_history(epoch - 1),
    )
    log.info("best epoch %d: validation %s %.4f", fit.best_epoch, trainer.monitor, fit.best_score)
    return fit


def _fit_hybrid(
    config: DictConfig,
    model: Hybrid,
    split: Split,
    writer: RunWriter | None,
    on_epoch: Callable[[Any], None],
) -> Fit | None:
    """Each path on its own, and then how to add them up, on the validation users."""
    if is_first_process():  # the others have a share in the gradient steps only
        model.linear.fit(split.train.matrix)
    fit = _fit(config, model.variational, split, writer, on_epoch)
    if is_first_process():
        choose_fusion(
            model,
            split.validation,
            config.trainer.monitor,
            split.train.item_counts,
            config.evaluation.batch_size,
        )
    return fit


def _evaluate(config: DictConfig, model: RecommenderModel, split: Split, part: str) -> EvaluationResult:
    held_out = getattr(split, part)
    result = evaluate_full_ranking(
        model.score,
        held_out,
        list(config.evaluation.metrics),
        split.train.item_counts,
        config.evaluation.batch_size,
    )
    if result.n_users < held_out.n_users:
        log.info(
            "%s: %d of %d users have no target among the training items and are left out of the means",
            part,
            held_out.n_users - result.n_users,
            held_out.n_users,
        )
    return result


def _report(
    config: DictConfig, model: RecommenderModel, split: Split, metrics: dict[str, Any], writer: RunWriter
) -> str:
    catalogue = Catalogue(split.train.item_ids, split.train.titles, split.train.item_counts)
    return render_report(
        dataset=dataset_name(config),
        model=_model_name(config),
        seed=config.seed,
        date=datetime.now(UTC).date().isoformat(),
        split={**split.manifest, "sha256": split.sha256},
        config=OmegaConf.to_container(config, resolve=True),  # type: ignore[arg-type]
        metrics=metrics,
        history=writer.read_history(),
        samples=_samples(Recommender(model, catalogue), split),
        versions={name: version(name) for name in ("recsys-vae", "torch", "numpy", "scipy")},
    )


def _samples(recommender: Recommender, split: Split) -> list[dict[str, Any]]:
    """A few test users with what they liked, what is recommended, and what of it they went on to like."""
    usable = np.flatnonzero(
        (np.diff(split.test.target.indptr) > 0) & (np.diff(split.test.history.indptr) > 0)
    )
    rows = usable[:: max(1, len(usable) // _N_SAMPLES_IN_REPORT)][:_N_SAMPLES_IN_REPORT]
    if not len(rows):
        return []
    label = recommender.catalogue.label
    ranked = recommender.rank(split.test.history[rows], min(10, split.train.n_items))
    samples = []
    for row, items in zip(rows, ranked.items.cpu().numpy(), strict=True):
        history, target = (
            matrix.indices[matrix.indptr[row] : matrix.indptr[row + 1]]
            for matrix in (split.test.history, split.test.target)
        )
        samples.append(
            {
                "user": split.test.user_ids[row],
                "history": [str(label(int(item))) for item in history[:12]],
                "recommended": [
                    {"title": str(label(int(item))), "hit": bool(item in target)}
                    for item in items
                    if item >= 0
                ],
            }
        )
    return samples


def _check_same_configuration(path: Path, config: DictConfig) -> None:
    """A resumed run must compute what the interrupted one did."""
    if not path.exists():
        return
    before, now = (
        _flat(values) for values in (_read_record(path), OmegaConf.to_container(config, resolve=True))
    )
    for key in sorted((before.keys() | now.keys()) - _FREE_ON_RESUME):
        if before.get(key) != now.get(key):
            raise UserError(
                f"{key}: the interrupted run had {before.get(key)!r}, came {now.get(key)!r}; "
                "resume=true carries on the same configuration"
            )


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, dict):
        return {prefix: node}
    return {
        k: v for key, value in node.items() for k, v in _flat(value, f"{prefix}.{key}".lstrip(".")).items()
    }


def _check_same_split(path: Path, split: Split) -> None:
    """The pairs and, where they count, their weights must be those that the interrupted run had."""
    recorded = _read_record(path)
    now = {**split.manifest, "sha256": split.sha256}
    for key, what in (("sha256", "split"), ("weights_sha256", "weights")):
        if recorded.get(key) != now.get(key):
            raise UserError(
                f"dataset: the interrupted run had the {what} {recorded.get(key)}, came {now.get(key)}; "
                "the data changed"
            )


def _read_record(path: Path) -> dict[str, Any]:
    """A record of the interrupted run, which may be damaged: JSON is YAML too."""
    try:
        record = yaml.safe_load(path.read_text("utf-8"))
        if not isinstance(record, dict):
            raise ValueError(f"expected a mapping, came {type(record).__name__}")
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise UserError(f"run: {path} cannot be read, so the run cannot be resumed: {error}") from error
    return record


@contextlib.contextmanager
def _timed(seconds: dict[str, float], name: str) -> Any:
    began = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - began
