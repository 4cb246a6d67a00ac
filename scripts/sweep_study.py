"""One model's study of ``sweep.py``: ask Optuna, train, judge on the validation users, tell; resumable at any trial."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.sparse import csr_array
from sweep_space import Dimension, defaults_of, overrides_of

from recsys_vae.cli.config import compose_config
from recsys_vae.cli.train import fit_and_validate
from recsys_vae.errors import UserError
from recsys_vae.interactions import HeldOut, Split

Record = dict[str, Any]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Task:
    """What is the same for every trial of a model."""

    model: str
    space: list[Dimension]
    overrides: list[str]
    metric: str
    seed: int
    n_trials: int

    def arguments(self, values: Record) -> list[str]:
        """Of ``recsys-vae train``."""
        fixed = [*self.overrides, f"model={self.model}", f"evaluation.metrics=[{self.metric}]"]
        if compose_config("train", [*self.overrides, f"model={self.model}"]).trainer is not None:
            fixed += [f"trainer.monitor={self.metric}", "trainer.progress_bar=false"]
        return [*fixed, *overrides_of(values)]


def without_test_users(split: Split) -> Split:
    """The split as a sweep may see it: nothing can be chosen by users that are not there."""
    nobody = csr_array((0, split.train.n_items), dtype=np.float32)
    return replace(split, test=HeldOut(split.test.user_ids[:0], nobody, nobody))


def run_study(task: Task, split: Split, storage: Any, say: Say) -> Record:
    """Bring the study to ``n_trials`` trials, pruned ones counted, and return what it found.

    The first trial is the model's defaults. The draws of a trial follow from the seed, the number of trials before
    it and what they gave, so a sweep that was cut short and resumed asks what the other would have asked.

    Raises:
        UserError: the storage has a study of other data, space, metric or seed; a setting that the model refuses.
    """
    import optuna
    from optuna.trial import TrialState

    done_states = (TrialState.COMPLETE, TrialState.PRUNED)
    defaults = defaults_of(task.model, task.space, task.overrides)
    study = optuna.create_study(
        study_name=task.model,
        storage=storage,
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=4),
    )
    _check_same(study, task, split)
    for trial in study.get_trials(deepcopy=False):
        if not trial.state.is_finished() and trial.state != TrialState.WAITING:  # killed in the midst of it
            study.tell(trial.number, state=TrialState.FAIL)
    while (n_done := len(study.get_trials(deepcopy=False, states=done_states))) < task.n_trials:
        if not n_done and not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            study.enqueue_trial(defaults)
        # A sampler of its own for each trial: one for all would begin its stream again when the sweep is resumed.
        seed = int(np.random.SeedSequence([task.seed, n_done]).generate_state(1)[0])
        study.sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=5)
        _run_trial(study, study.ask(), task, split, say)
    finished = study.get_trials(deepcopy=False, states=done_states)
    complete = [trial for trial in finished if trial.state == TrialState.COMPLETE]
    best = max(complete, key=lambda trial: trial.value)
    return {
        "model": task.model,
        "metric": task.metric,
        "best": best.value,
        "stderr": best.user_attrs["stderr"],
        "values": {dimension.key: best.params[dimension.key] for dimension in task.space},
        "default": finished[0].value,
        "n_trials": len(finished),
        "n_pruned": len(finished) - len(complete),
        "seconds": round(sum(trial.user_attrs["seconds"] for trial in finished), 2),
        "split_sha256": split.sha256,
        "n_validation_users": split.validation.n_users,
    }


def _run_trial(study: Any, trial: Any, task: Task, split: Split, say: Say) -> None:
    import optuna
    from optuna.trial import TrialState

    values = {dimension.key: dimension.suggest(trial) for dimension in task.space}
    began = time.perf_counter()

    def report(row: Record) -> None:
        trial.report(row[f"validation_{task.metric}"], row["epoch"])
        if trial.should_prune():
            raise optuna.TrialPruned

    try:
        config = compose_config("train", task.arguments(values))
        result = fit_and_validate(config, split, report)
    except optuna.TrialPruned:
        trial.set_user_attr("seconds", time.perf_counter() - began)
        study.tell(trial, state=TrialState.PRUNED)
        say(f"{task.model} {trial.number}: pruned, {' '.join(overrides_of(values))}")
        return
    except UserError as error:
        study.tell(trial, state=TrialState.FAIL)
        raise UserError(f"{task.model}, {' '.join(overrides_of(values))}: {error}") from error
    summary = result.summary()[task.metric]
    trial.set_user_attr("seconds", time.perf_counter() - began)
    trial.set_user_attr("stderr", summary["stderr"])
    study.tell(trial, summary["mean"])
    say(f"{task.model} {trial.number}: {task.metric} {summary['mean']:.4f}, {' '.join(overrides_of(values))}")


def _check_same(study: Any, task: Task, split: Split) -> None:
    """A study goes on only with what it was begun with."""
    now = {
        "overrides": task.overrides,
        "metric": task.metric,
        "seed": task.seed,
        "split_sha256": split.sha256,
        "space": [repr(dimension) for dimension in task.space],
    }
    before = study.user_attrs
    for key, value in now.items():
        if key not in before:
            study.set_user_attr(key, value)
        elif before[key] != value:
            raise UserError(
                f"--storage: the study of {task.model} has {key} {before[key]}, came {value}; "
                "take another file for another sweep"
            )
