"""Ratings held out and predicted, from the command line."""

from __future__ import annotations

import importlib
import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recsys_vae.models.blocked_gibbs import BlockedGibbs

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("predict_ratings")


@pytest.fixture
def ratings(tmp_path: Path) -> Path:
    """Ratings of rank 2 and a little noise; the first pair is rated twice, at first wrongly."""
    generator = np.random.default_rng(3)
    users, items = np.divmod(np.arange(40 * 30), 30)
    tastes, traits = generator.standard_normal((40, 2)), generator.standard_normal((30, 2))
    values = 3.0 + (tastes[users] * traits[items]).sum(axis=1) + 0.1 * generator.standard_normal(1200)
    frame = pd.DataFrame({"user_id": users, "item_id": [f"i{item}" for item in items], "rating": values})
    path = tmp_path / "ratings.csv"
    pd.concat([frame.iloc[:1].assign(rating=-40.0), frame]).to_csv(path, index=False)
    return path


def test_held_out_ratings_are_predicted_within_the_noise(script, ratings, tmp_path, capsys) -> None:
    output = tmp_path / "predictions.parquet"
    given = [
        "dataset=table",
        f"dataset.path={ratings}",
        "--latent-dim",
        "2",
        "--n-draws",
        "60",
        "--output",
        str(output),
    ]
    assert script.main(given) == 0
    told = capsys.readouterr().out
    assert "RMSE" in told
    table = pd.read_parquet(output)
    assert list(table.columns) == ["user_id", "item_id", "rating", "mean", "standard_deviation"]
    assert 80 < len(table) < 160
    assert table["rating"].min() > -40.0
    error = np.sqrt(np.mean((table["mean"] - table["rating"]) ** 2))
    assert error < 0.15
    assert f"{error:.4f}" in told
    assert 0.05 < table["standard_deviation"].mean() < 0.25


def test_of_a_pair_rated_twice_the_last_counts(script) -> None:
    codes = {"user_codes": [0, 1, 0, 2, 1], "item_codes": [0, 1, 0, 0, 2]}
    table = type("Table", (), {name: np.array(values, np.int32) for name, values in codes.items()})()
    table.item_ids, table.n_rows = np.arange(3), 5
    assert script.last_of_each_pair(table).tolist() == [1, 2, 3, 4]


def test_a_chain_that_was_interrupted_goes_on_to_the_same_numbers(
    script, ratings, tmp_path, monkeypatch, capsys
) -> None:
    given = ["dataset=table", f"dataset.path={ratings}", "--latent-dim", "2", "--n-draws", "20"]
    whole, resumed, kept = (
        tmp_path / "whole.parquet",
        tmp_path / "resumed.parquet",
        tmp_path / "c.safetensors",
    )
    assert script.main([*given, "--output", str(whole)]) == 0
    monkeypatch.setattr(script, "SECONDS_BETWEEN_SAVES", 0.0)
    sweep, count = BlockedGibbs.sweep, itertools.count()

    def interrupted(self, state, generator):
        if next(count) == 30:
            raise KeyboardInterrupt
        return sweep(self, state, generator)

    monkeypatch.setattr(BlockedGibbs, "sweep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        script.main([*given, "--checkpoint", str(kept)])
    monkeypatch.setattr(BlockedGibbs, "sweep", sweep)
    assert script.main([*given, "--checkpoint", str(kept), "--output", str(resumed)]) == 0
    pd.testing.assert_frame_equal(pd.read_parquet(resumed), pd.read_parquet(whole))
    capsys.readouterr()
    assert script.main([*given, "--checkpoint", str(kept), "--seed", "2"]) == 2
    assert f"resume: {kept} is not a whole checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--latent-dim", "200"], "model.latent_dim: expected at most"),
        (["--n-draws", "0"], "n_draws: expected a whole number of at least 1"),
        (["--output", "nowhere/x.parquet"], "output: expected an existing folder"),
        (["--output", "x.csv"], "output: expected a name ending in .parquet"),
        (["--held-out", "1e-12"], "--held-out: expected some of 1200 ratings on either side, got 0"),
    ],
)
def test_a_setting_that_cannot_be(script, ratings, capsys, given, message) -> None:
    assert script.main(["dataset=table", f"dataset.path={ratings}", *given]) == 2
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith(message)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--seed", "-1"], "--seed: expected a whole number from 0"),
        (["--held-out", "1"], "--held-out: expected a share between 0 and 1"),
        (["filters.rating_threshold=3"], "overrides: expected dataset=..."),
    ],
)
def test_an_argument_that_is_none(script, capsys, given, message) -> None:
    with pytest.raises(SystemExit) as stopped:
        script.main(given)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_ratings_that_are_all_alike(script, tmp_path, capsys) -> None:
    users, items = np.divmod(np.arange(60), 6)
    path = tmp_path / "constant.csv"
    pd.DataFrame({"user_id": users, "item_id": items, "rating": 3.0}).to_csv(path, index=False)
    assert script.main(["dataset=table", f"dataset.path={path}", "--latent-dim", "1", "--n-draws", "5"]) == 0
    assert "0.0000" in capsys.readouterr().out


def test_a_table_without_ratings(script, tmp_path, capsys) -> None:
    path = tmp_path / "likes.csv"
    pd.DataFrame({"user_id": [1, 1, 2], "item_id": [1, 2, 2]}).to_csv(path, index=False)
    assert script.main(["dataset=table", f"dataset.path={path}"]) == 2
    assert "expected ratings, came none" in capsys.readouterr().err
