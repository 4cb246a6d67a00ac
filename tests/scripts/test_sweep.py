"""Sweeps on the made-up data set: resumed as if never interrupted, judged on validation users, refused where wrong."""

from __future__ import annotations

import importlib
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import sweep
import sweep_space as space
import sweep_study as study
import yaml

from recsys_vae.bundled import bundled_path
from recsys_vae.cli.config import compose_config
from recsys_vae.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore")
TINY = ["dataset=tiny", "--metric", "ndcg@10", "--models"]
MODELS = ["ease", "edlae", "item_knn", "mult_vae", "rdlae", "rec_vae", "wmf"]
VAE_SPACE = """
model.latent_dim: {low: 2, high: 300, log: true}
trainer.max_epochs: {low: 1, high: 40}
trainer.optimiser.lr: {low: 1.0e-9, high: 1.0e-2, log: true}
"""


def run(folder: Path, *arguments: str) -> list[dict]:
    output = folder / "sweep.json"
    given = [*TINY, *arguments, "--storage", str(folder / "sweep.journal"), "--output", str(output)]
    assert sweep.main(given) == 0
    return json.loads(output.read_text())["models"]


def trials(folder: Path, model: str) -> list[tuple]:
    optuna = pytest.importorskip("optuna")
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(folder / "sweep.journal"))
    )
    found = optuna.load_study(study_name=model, storage=storage).trials
    return [(t.state.name, t.params, t.value) for t in found if t.state.name != "FAIL"]


def test_every_committed_space_is_of_its_model_and_has_its_defaults() -> None:
    folder = bundled_path("configs", "sweep")
    assert space.spaces(folder) == MODELS
    for model in MODELS:
        dimensions = space.read_space(folder / f"{model}.yaml")
        assert space.defaults_of(model, dimensions, []).keys() == {d.key for d in dimensions}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model.l3: {low: 1.0, high: 2.0}", "model.l3: unknown key of recsys-vae train"),
        ("model.l2: {low: 900.0, high: 2000.0}", r"model.l2: expected the default 500.0 in the space"),
        ("model.l2: {low: 2.0, high: 1.0}", "model.l2: expected low below high"),
        ("model.l2: {low: 1, high: 1000.0}", "both whole numbers or both with a point"),
        ("model.l2: {low: 0.0, high: 900.0, log: true}", "log: true with a low above 0"),
        ("model.l2: {lowest: 1.0, high: 2.0}", "unknown 'lowest'; did you mean 'low'"),
        ("model.l2: [1, 2]", "expected {low: .., high: ..}"),
        ("model.precision: {choices: [float64]}", "two or more numbers or texts"),
        ("- model.l2", "expected KEY:"),
    ],
)
def test_bad_spaces(tmp_path, text, message) -> None:
    path = tmp_path / "ease.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        space.defaults_of("ease", space.read_space(path), [])


def test_the_extra_is_named_where_optuna_is_missing(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert sweep.main([*TINY, "ease", "--storage", str(tmp_path / "s")]) == 2
    assert capsys.readouterr().err == (
        "optuna: expected the extra [sweep], which is not installed: pip install 'recsys-vae[sweep]'\n"
    )


def test_a_resumed_sweep_asks_what_an_uninterrupted_one_asks(tmp_path, monkeypatch) -> None:
    pytest.importorskip("optuna")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    run(whole, "ease", "--trials", "8")
    assert [state for state, _, _ in trials(whole, "ease")] == ["COMPLETE"] * 8
    fit, calls = study.fit_and_validate, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) in (1, 4):
            raise KeyboardInterrupt
        return fit(*arguments)

    monkeypatch.setattr(study, "fit_and_validate", interrupted)
    for _ in range(2):
        given = [*TINY, "ease", "--trials", "8", "--storage", str(parts / "sweep.journal")]
        assert sweep.main(given) == 130
    run(parts, "ease", "--trials", "8")
    assert trials(parts, "ease") == trials(whole, "ease")
    assert len(calls) == 10
    assert trials(whole, "ease")[0][1] == {"model.l2": 500.0, "model.user_exponent": 0.0}


def test_no_trial_sees_the_test_users(tmp_path, monkeypatch) -> None:
    pytest.importorskip("optuna")
    seen, fit = [], study.fit_and_validate

    def watched(config, split, on_epoch):
        seen.append(split)
        return fit(config, split, on_epoch)

    monkeypatch.setattr(study, "fit_and_validate", watched)
    (found,) = run(tmp_path, "item_knn", "--trials", "2")
    split = sweep.read_split(compose_config("train", ["dataset=tiny"]))
    assert split.test.n_users > 0
    assert len(seen) == 2
    for given in seen:
        assert given.test.n_users == given.test.history.nnz == given.test.target.nnz == 0
        assert not set(given.validation.user_ids) & set(split.test.user_ids)
        assert not set(given.train.user_ids) & set(split.test.user_ids)
        assert np.array_equal(given.validation.user_ids, split.validation.user_ids)
    assert found["best"] >= found["default"]


def test_trials_of_a_vae_are_pruned_and_count(tmp_path) -> None:
    pytest.importorskip("optuna")
    (tmp_path / "mult_vae.yaml").write_text(VAE_SPACE)
    (found,) = run(tmp_path, "mult_vae", "--trials", "8", "--spaces", str(tmp_path))
    states = [state for state, _, _ in trials(tmp_path, "mult_vae")]
    assert found["n_trials"] == len(states) == 8
    assert found["n_pruned"] == states.count("PRUNED") > 0


def test_the_written_experiment_trains_to_the_figure_it_names(tmp_path) -> None:
    pytest.importorskip("optuna")
    (found,) = run(tmp_path, "edlae", "seed=2", "--trials", "3", "--write", str(tmp_path))
    text = (tmp_path / "tiny_edlae.yaml").read_text()
    assert text.startswith("# @package _global_\n# recsys-vae train experiment=tiny_edlae\n")
    assert f"Validation ndcg@10 {found['best']:.4f}" in text
    assert "best of 3 trials" in text
    assert "seed 2" in text
    written = yaml.safe_load(text)
    assert written["defaults"] == [{"override /dataset": "tiny"}, {"override /model": "edlae"}]
    values = {f"model.{key}": value for key, value in written["model"].items()}
    assert values == pytest.approx(found["values"], rel=1e-5)
    given = ["dataset=tiny", "seed=2", "model=edlae", "evaluation.metrics=[ndcg@10]"]
    config = compose_config("train", [*given, *space.overrides_of(values)])
    result = study.fit_and_validate(config, sweep.read_split(config))
    assert result.means["ndcg@10"] == pytest.approx(found["best"], abs=1e-6)


def test_a_storage_of_another_sweep_is_refused(tmp_path, capsys) -> None:
    pytest.importorskip("optuna")
    run(tmp_path, "item_knn", "--trials", "1")
    storage = ["--storage", str(tmp_path / "sweep.journal")]
    assert sweep.main([*TINY, "item_knn", "--trials", "1", "seed=2", *storage]) == 2
    assert "--storage: the study of item_knn has overrides" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["eas"], "--models: came 'eas'"),
        (["ease", "model=ease"], "model=ease: not of a sweep"),
        (["ease", "experiment=ml20m_liang2018", "--write", "."], "--write: expected no experiment"),
        (["ease", "--write", "no such folder"], "--write: expected a folder"),
    ],
)
def test_bad_arguments(tmp_path, capsys, arguments, message) -> None:
    pytest.importorskip("optuna")
    assert sweep.main([*TINY, *arguments, "--storage", str(tmp_path / "s")]) == 2
    assert message in capsys.readouterr().err
