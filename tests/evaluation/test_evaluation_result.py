from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.sparse import csr_array

from recsys_vae.evaluation import Evaluation, EvaluationResult


def result_of(targets: np.ndarray) -> EvaluationResult:
    n_users, n_items = targets.shape
    evaluation = Evaluation(["recall@1", "ndcg@2"], np.arange(n_items, 0, -1))
    evaluation.update(
        np.tile(np.arange(2), (n_users, 1)),
        csr_array(targets),
        history_lengths=np.arange(n_users),
        user_ids=np.arange(n_users),
    )
    return evaluation.result()


def test_means_errors_and_intervals() -> None:
    targets = np.random.default_rng(0).random((80, 3)) < 0.5
    result = result_of(targets)
    counted = targets[targets.any(axis=1), 0].astype(float)
    assert result.n_users == len(counted) < 80
    summary = result.summary()
    assert list(summary) == ["recall@1", "ndcg@2"]
    recall = summary["recall@1"]
    assert recall["mean"] == pytest.approx(counted.mean(), abs=1e-15) == result.means["recall@1"]
    assert recall["stderr"] == pytest.approx(stats.sem(counted), abs=1e-15)
    low, high = recall["interval"]
    assert high - low == pytest.approx(2 * 1.96 * recall["stderr"], rel=0.1)
    assert low < recall["mean"] < high
    assert result.summary(seed=0) == summary != result.summary(seed=1)
    narrow = result.summary(level=0.5)["recall@1"]["interval"]
    assert low < narrow[0] < narrow[1] < high
    assert "interval" not in result.summary(resamples=0)["recall@1"]


@pytest.mark.parametrize("n_counted", [0, 1])
def test_json_has_null_where_there_is_no_number(n_counted: int) -> None:
    targets = np.zeros((2, 3), dtype=bool)
    targets[:n_counted, 0] = True
    result = result_of(targets)
    text = json.dumps({"test": result.summary(), **result.tables()}, allow_nan=False)
    recall = json.loads(text)["test"]["recall@1"]
    expected = {"mean": None, "stderr": None, "interval": [None, None]}
    if n_counted:
        expected = {"mean": 1.0, "stderr": None, "interval": [1.0, 1.0]}
    assert recall == expected
    assert len(json.loads(text)["by_item_popularity"]) == 10


def test_tables_are_the_frames() -> None:
    result = result_of(np.ones((5, 3), dtype=bool))
    tables = result.tables()
    assert set(tables) == {"catalogue", "by_history_length", "by_item_popularity"}
    pd.testing.assert_frame_equal(pd.DataFrame(tables["catalogue"]), result.catalogue)
    assert tables["by_history_length"][0]["n_history"] == "0"
