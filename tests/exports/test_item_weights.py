"""Weights from items to items as a table."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_array

import recsys_vae
from recsys_vae.cli.main import main
from recsys_vae.exports import item_weights, write_item_weights

WEIGHTS = np.array([[0.0, 2.0, -3.0], [1.0, 0.0, 0.5], [0.0, 0.0, 0.0]], dtype=np.float32)
IDS = np.array(["a", "b", "c"], dtype=object)


def _rows(items: slice) -> csr_array:
    return csr_array(WEIGHTS[items])


@pytest.mark.parametrize("block", [1, 4, 2**22])
def test_the_largest_of_each_item_come_first(tmp_path, monkeypatch, block) -> None:
    monkeypatch.setattr(item_weights, "_BLOCK_ENTRIES", block)
    assert write_item_weights(tmp_path / "all.parquet", IDS, _rows) == 4
    table = pd.read_parquet(tmp_path / "all.parquet")
    assert table.to_numpy().tolist() == [["a", "c", -3.0], ["a", "b", 2.0], ["b", "a", 1.0], ["b", "c", 0.5]]
    assert write_item_weights(tmp_path / "one.parquet", IDS, _rows, k=1) == 2
    assert pd.read_parquet(tmp_path / "one.parquet")["weight"].tolist() == [-3.0, 1.0]


def test_no_weights_at_all(tmp_path) -> None:
    nothing = csr_array((3, 3), dtype=np.float32)
    assert write_item_weights(tmp_path / "none.parquet", np.arange(3), lambda rows: nothing[rows]) == 0
    assert list(pd.read_parquet(tmp_path / "none.parquet").columns) == ["item_id", "scored_item_id", "weight"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model", ["ease", "item_knn"])
def test_a_history_summed_up_from_the_table_gives_the_recommendations(tmp_path, model) -> None:
    run, output = tmp_path / model, tmp_path / "weights.parquet"
    assert main(["train", "dataset=tiny", f"model={model}", f"run={run}"]) == 0
    assert main(["export", f"run={run}", "what=weights", f"output={output}"]) == 0
    weights = pd.read_parquet(output)
    recommender = recsys_vae.load(run)
    history = list(weights[weights["item_id"] == weights["item_id"][0]]["scored_item_id"][:4])
    scores = weights[weights["item_id"].isin(history)].groupby("scored_item_id")["weight"].sum()
    best = scores[~scores.index.isin(history)].sort_values(ascending=False, kind="stable")
    found = recommender.recommend(history, k=min(5, len(best)))
    assert found["score"].to_numpy() == pytest.approx(best.to_numpy()[:5], rel=1e-5)
    assert len(found) >= 2
    assert main(["export", f"run={run}", "what=weights", "k=2", f"output={output}"]) == 0
    assert pd.read_parquet(output).groupby("item_id").size().max() == 2
