"""The script that reproduces the table of Liang et al. (2018), on a made-up table of ratings in the same format."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import runs_table as table

from recsys_vae.errors import UserError

SCRIPTS = Path(__file__).parents[2] / "scripts"


def made_up_run(folder: Path, name: str, mean: float, digest: str = "a") -> Path:
    run = folder / name
    run.mkdir()
    figures = {metric: {"mean": mean, "stderr": 0.01} for metric in table.METRICS}
    (run / "metrics.json").write_text(json.dumps({"test": figures, "seconds": {"fit": 12.3}}))
    (run / "split.json").write_text(json.dumps({"sha256": digest}))
    return run


def test_a_row_for_each_run(tmp_path, capsys) -> None:
    runs = [str(made_up_run(tmp_path, name, mean)) for name, mean in (("ease", 0.42), ("hybrid", 0.45))]
    assert table.main(runs) == 0
    assert capsys.readouterr().out.splitlines() == [
        "| run | ndcg@100 | recall@20 | recall@50 | fit, s |",
        "| --- | --- | --- | --- | --- |",
        "| ease | 0.4200 ± 0.0100 | 0.4200 ± 0.0100 | 0.4200 ± 0.0100 | 12 |",
        "| hybrid | 0.4500 ± 0.0100 | 0.4500 ± 0.0100 | 0.4500 ± 0.0100 | 12 |",
    ]


def test_runs_that_make_no_table(tmp_path) -> None:
    first, other = made_up_run(tmp_path, "a", 0.1), made_up_run(tmp_path, "b", 0.1, digest="b")
    with pytest.raises(UserError, match="expected runs on one split"):
        table.runs_table([first, other])
    with pytest.raises(UserError, match="expected a whole run directory"):
        table.runs_table([tmp_path])


@pytest.mark.slow
def test_from_a_ratings_file_to_the_table(tmp_path) -> None:
    generator = np.random.default_rng(0)
    rows = [
        (user, int(movie), float(generator.choice([3.5, 4.0, 4.5])))
        for user in range(1, 121)
        for movie in np.sort(generator.choice(np.arange(1, 161), 30, replace=False))
    ]
    ratings = tmp_path / "ratings.csv"
    pd.DataFrame(rows, columns=["userId", "movieId", "rating"]).to_csv(ratings, index=False)
    n_liked = sum(rating >= 4 for _, _, rating in rows)
    overrides = [
        "dataset=table",
        f"dataset.path={ratings}",
        "split.expected_users=120",
        "split.expected_items=160",
    ]
    overrides += ["split.n_validation_users=20", "split.n_test_users=20"]
    environment = os.environ | {"PYTHON": sys.executable, "MODELS": "ease edlae"}
    command = [str(SCRIPTS / "reproduce_liang2018.sh"), str(tmp_path / "runs"), *overrides]

    def run(n_interactions: int) -> subprocess.CompletedProcess:
        given = [*command, f"split.expected_interactions={n_interactions}"]
        return subprocess.run(given, env=environment, capture_output=True, text=True, check=False)

    refused = run(n_liked + 1)
    assert refused.returncode == 2
    assert f"split.expected_interactions={n_liked + 1}: came {n_liked} interactions" in refused.stderr
    done = run(n_liked)
    assert done.returncode == 0, done.stderr
    assert [line.split(" |")[0] for line in done.stdout.splitlines()[-2:]] == ["| ease", "| edlae"]
