from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from recsys_vae.evaluation.history_length import history_length_table


def test_strata_have_the_stated_edges() -> None:
    lengths = [0, 1, 5, 6, 20, 21, 50, 51, 100, 101, 10**6]
    per_user = pd.DataFrame({"n_history": lengths, "n_target": 1, "m": np.arange(11.0)})
    table = history_length_table(per_user, ["m"])
    assert table["n_history"].tolist() == ["0", "1-5", "6-20", "21-50", "51-100", ">100"]
    assert table["n"].tolist() == [1, 2, 2, 2, 2, 2]
    assert table["mean"].tolist() == [0.0, 1.5, 3.5, 5.5, 7.5, 9.5]
    assert table["stderr"].tolist()[1:] == pytest.approx([0.5] * 5)
    assert np.isnan(table["stderr"][0])


def test_users_without_a_target_and_empty_strata_are_left_out() -> None:
    per_user = pd.DataFrame(
        {"n_history": [3, 4, 200], "n_target": [1, 2, 0], "m": [0.0, 1.0, np.nan], "o": [1.0, 1.0, np.nan]}
    )
    table = history_length_table(per_user, ["m", "o"])
    assert table[["n_history", "metric", "n", "mean"]].to_numpy().tolist() == [
        ["1-5", "m", 2, 0.5],
        ["1-5", "o", 2, 1.0],
    ]
    assert history_length_table(per_user[per_user["n_target"] == 0], ["m"]).empty
