"""Ratings held out and predicted, from the command line."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

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
        "--rank",
        "2",
        "--draws",
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


@pytest.mark.parametrize(
    ("given", "message"),
    [(["--rank", "200"], "latent_dim"), (["--draws", "0"], "n_draws: expected a whole number of at least 1")],
)
def test_a_setting_that_cannot_be(script, ratings, capsys, given, message) -> None:
    assert script.main(["dataset=table", f"dataset.path={ratings}", *given]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error


def test_a_table_without_ratings(script, tmp_path, capsys) -> None:
    path = tmp_path / "likes.csv"
    pd.DataFrame({"user_id": [1, 1, 2], "item_id": [1, 2, 2]}).to_csv(path, index=False)
    assert script.main(["dataset=table", f"dataset.path={path}"]) == 2
    assert "expected ratings, came none" in capsys.readouterr().err
