"""The table of all recommenders, on the tiny dataset and with made-up figures."""

from __future__ import annotations

from pathlib import Path

import benchmark_peers as benchmark
import compare_ideas as compare
import numpy as np
import pandas as pd
import pytest
import yaml

from recsys_vae.cli.config import compose_config

METRICS = ["ndcg@100", "recall@20", "recall@50"]


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    path = tmp_path / "settings.yaml"
    path.write_text("peers: {}\nours: {ease: {trials: [[], [model.l2=0.0]]}}\n")
    return path


def _run(catalogue: Path, *arguments: str) -> int:
    folder = catalogue.parent
    files = ["--output", str(folder / "ideas.json"), "--markdown", str(folder / "ideas.md")]
    given = ["dataset=tiny", "--catalogue", str(catalogue), "--seeds", "1", "--threads", "1"]
    return int(compare.main([*given, *files, *arguments]))


def _write(folder: Path, name: str, users: list[int], lengths: list[int], values: list[float]) -> dict:
    table = pd.DataFrame({"user_id": users, "n_history": lengths, "n_target": 3})
    table.loc[np.isnan(values), "n_target"] = 0
    for metric in METRICS:
        table[metric] = values
    table.to_parquet(folder / name)
    return {"per_user": name}


def test_tests_by_length_of_history_are_of_the_users_of_that_length(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    users = list(range(61))
    lengths = [*([3] * 20), *([10] * 20), *([30] * 20), 60]
    base = rng.random(61)
    better = base + np.where(np.array(lengths) == 3, 0.1 + 0.01 * rng.random(61), 0.0)
    base[25] = better[25] = np.nan  # has no target
    picked = {
        "b": [_write(tmp_path, "b", users, lengths, better.tolist())],
        "a": [_write(tmp_path, "a", users[::-1], lengths[::-1], base[::-1].tolist())],
    }
    table = compare.by_history_length(picked, "a", tmp_path)
    assert table["n_history"].unique().tolist() == ["1-5", "6-20", "21-50"]  # one user is no sample
    one = table[(table["metric"] == "ndcg@100") & (table["run"] == "b")].set_index("n_history")
    assert one["n"].tolist() == [20, 19, 20]
    np.testing.assert_allclose(one["difference"], [(better - base)[:20].mean(), 0.0, 0.0])
    assert one.loc["1-5", "p_holm"] == pytest.approx(9 * one.loc["1-5", "p_value"])  # 3 metrics, 3 lengths
    assert one.loc["1-5", "p_holm"] < 0.05
    assert (one.loc[["6-20", "21-50"], "p_holm"] == 1).all()
    baseline = table[table["run"] == "a"]
    assert (baseline["difference"] == 0).all()
    lines = compare.length_table(table, ["b", "a"]).splitlines()
    assert lines[0] == "| ndcg@100 | 1-5 items (20 users) | 6-20 items (19 users) | 21-50 items (20 users) |"
    assert lines[2].startswith(f"| `b` | {np.mean(better[:20]):.4f}* | {np.nanmean(better[20:40]):.4f} |")
    assert "*" not in lines[3]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--trials", "3"], "--trials: expected at most 2, the settings of ease, got 3"),
        (["--models", "eas"], "--models"),
        (["--models", "popularity"], "--against"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    catalogue: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], named: str
) -> None:
    assert _run(catalogue, *arguments) == 2
    assert named in capsys.readouterr().err
    assert not (catalogue.parent / "ideas.json").exists()


def test_every_model_has_five_settings_that_exist() -> None:
    ours = yaml.safe_load(benchmark.CATALOGUE.read_text())["ours"]
    assert set(compare.every_model()) - set(ours) == {"popularity"}
    for name, entry in ours.items():
        assert len({tuple(overrides) for overrides in entry["trials"]}) == len(entry["trials"]) >= 5
        by_key = {override.partition("=")[0]: override for tried in entry["trials"] for override in tried}
        compose_config("train", [f"model={name}", *by_key.values()])
