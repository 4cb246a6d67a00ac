from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from recsys_vae.errors import UserError
from recsys_vae.evaluation import compare_runs
from recsys_vae.evaluation.holm import holm


def run(seed: int, shift: float = 0.0, n_users: int = 200) -> pd.DataFrame:
    difficulty = np.random.default_rng(99).random(n_users)
    noise = np.random.default_rng(seed).normal(shift, 0.05, (n_users, 2))
    table = pd.DataFrame({"user_id": [f"u{user}" for user in range(n_users)], "n_history": 9, "n_target": 3})
    table["ndcg@10"], table["recall@5"] = (difficulty[:, None] + noise).T
    table.loc[5, ["n_target", "ndcg@10", "recall@5"]] = [0, np.nan, np.nan]
    return table


def test_each_run_against_the_first() -> None:
    runs = {"a": run(1), "b": run(2, shift=0.1), "c": run(3)}
    table = compare_runs(runs)
    assert list(zip(table["run"], table["baseline"], table["metric"], strict=True)) == [
        ("b", "a", "ndcg@10"),
        ("b", "a", "recall@5"),
        ("c", "a", "ndcg@10"),
        ("c", "a", "recall@5"),
    ]
    row = table.iloc[0]
    difference = (runs["b"]["ndcg@10"] - runs["a"]["ndcg@10"]).dropna()
    assert row["n"] == 199
    assert row["difference"] == pytest.approx(difference.mean(), abs=1e-14)
    assert row["mean"] - row["baseline_mean"] == pytest.approx(row["difference"], abs=1e-14)
    assert row["stderr"] == pytest.approx(stats.sem(difference), abs=1e-14)
    assert row["low"] < row["difference"] < row["high"]
    assert row["high"] - row["low"] == pytest.approx(2 * 1.96 * row["stderr"], rel=0.15)
    assert row["p_value"] == 1 / 10_001
    assert (table["p_value"][2:] > 0.001).all()
    np.testing.assert_array_equal(table["p_holm"], holm(table["p_value"].to_numpy()))
    pd.testing.assert_frame_equal(table, compare_runs(runs))


def test_every_pair_and_chosen_metrics() -> None:
    table = compare_runs({"a": run(1), "b": run(2), "c": run(3)}, metrics=["recall@5"], all_pairs=True)
    assert list(zip(table["baseline"], table["run"], strict=True)) == [("a", "b"), ("a", "c"), ("b", "c")]
    assert set(table["metric"]) == {"recall@5"}


def test_the_order_of_users_does_not_matter() -> None:
    shuffled = run(2).sample(frac=1.0, random_state=0)
    pd.testing.assert_frame_equal(
        compare_runs({"a": run(1), "b": shuffled}), compare_runs({"a": run(1), "b": run(2)}), check_exact=True
    )


def test_pairing_sees_what_separate_intervals_hide() -> None:
    row = compare_runs({"a": run(1), "b": run(2, shift=0.03)}).iloc[0]
    assert row["p_value"] < 0.001
    assert row["stderr"] < 0.3 * stats.sem(run(1)["ndcg@10"], nan_policy="omit")


def test_a_run_against_itself() -> None:
    table = compare_runs({"a": run(1), "b": run(1)})
    assert (table["difference"] == 0).all()
    assert (table["p_holm"] == 1).all()


def test_users_without_targets_give_no_numbers_and_no_warnings() -> None:
    empty = run(1).assign(**{"ndcg@10": np.nan, "recall@5": np.nan})
    table = compare_runs({"a": empty, "b": empty})
    assert (table["n"] == 0).all()
    assert table[["difference", "stderr", "low", "high", "p_value", "p_holm"]].isna().all(axis=None)


def test_refuses_runs_that_cannot_be_paired() -> None:
    with pytest.raises(UserError, match="two or more to compare, got 1"):
        compare_runs({"a": run(1)})
    with pytest.raises(UserError, match="same users in all, got 200 users in 'a', 199 in 'b', 199 in both"):
        compare_runs({"a": run(1), "b": run(2).iloc[1:]})
    other = run(2).assign(user_id=lambda table: table["user_id"].str.replace("u7", "v7"))
    with pytest.raises(UserError, match="same users in all, got 200 users in 'a', 200 in 'b', 189 in both"):
        compare_runs({"a": run(1), "b": other})
    with pytest.raises(UserError, match="each user once in 'b', got user 'u0' twice"):
        compare_runs({"a": run(1), "b": run(2).assign(user_id="u0")})
    with pytest.raises(UserError, match=r"that all runs have \(ndcg@10\), got recall@5"):
        compare_runs({"a": run(1), "b": run(2).drop(columns="recall@5")}, metrics=["ndcg@10", "recall@5"])
    with pytest.raises(UserError, match="there are none"):
        compare_runs({"a": run(1)[["user_id", "ndcg@10"]], "b": run(2)[["user_id", "recall@5"]]})
