"""The factor models against made-up peers, which rank by training counts and predict one rating for all."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import benchmark_ideas as benchmark
import numpy as np
import peer_split as split_module
import pytest
import torch

from recsys_vae.cli.config import compose_config
from recsys_vae.cli.stages import load_ratings

# Called as PYTHON -W ignore factor_peers.py PROGRAM FOLDER --rank 4 ...
FAKE = f"""#!{sys.executable}
import json, sys
from pathlib import Path
import numpy as np
import scipy.sparse as sp

program, folder = sys.argv[4], Path(sys.argv[5])
rank = int(sys.argv[sys.argv.index("--rank") + 1])
if program == "myfm":
    held_out = np.load(folder / "ratings.npz")["held_out"]
    np.savez(folder / "myfm.npz", mean=np.full(held_out.sum(), 3.0))
else:
    counts = np.tile(sp.load_npz(folder / "train.npz").sum(axis=0)[:, None], (1, rank))
    users = np.ones((sp.load_npz(folder / "test_history.npz").shape[0], rank), dtype=np.float32)
    np.savez(folder / "implicit.npz", users=users, items=counts)
    np.savez(folder / "hpfrec.npz", shape=counts + 1e-3, rate=np.ones_like(counts))
print("a line of its own")
print(json.dumps({{"seconds": 2.0, "version": "0.1"}}))
"""
SMALL = ["--rank", "4", "--rating-rank", "2", "--iterations", "2", "--ascent-iterations", "3", "--draws", "3"]


def _run(monkeypatch: pytest.MonkeyPatch, folder: Path, fake: str | None, *programs: str) -> int:
    peer = folder / "peer"
    if fake is not None:
        peer.write_text(fake)
        peer.chmod(0o755)
    given = ["--programs", *programs]
    given += [part for program in programs for part in (f"--{program}", str(peer))]
    given += ["--turns", "1", "--threads", "1", "--output", str(folder / "ideas.json"), *SMALL]
    monkeypatch.setattr(sys, "argv", ["benchmark_ideas.py", "dataset=tiny", *given])
    return int(benchmark.main())


def test_every_factor_model_beside_a_peer(tmp_path: Path, monkeypatch, capsys) -> None:
    assert _run(monkeypatch, tmp_path, FAKE, "implicit", "hpfrec", "myfm") == 0
    rows = json.loads((tmp_path / "ideas.json").read_text())["rows"]
    assert [row["peer"] for row in rows] == ["implicit", "hpfrec", "myfm"]
    for row in rows:
        assert row["peer_seconds"] == 2.0
        assert row["times"] == pytest.approx(2.0 / row["seconds"])
        assert row["peer_version"] == "0.1"
    split = split_module.read_split(["dataset=tiny"], seed=1)
    counts = torch.from_numpy(np.asarray(split.train.item_counts, dtype=np.float32))
    by_counts = benchmark.ndcg(split, lambda histories: counts.repeat(histories.shape[0], 1))
    assert rows[0]["theirs"] == pytest.approx(by_counts)
    assert rows[1]["theirs"] == pytest.approx(by_counts)
    ratings = load_ratings(compose_config("train", ["dataset=tiny"])).ratings
    assert ratings is not None
    held_out = np.random.default_rng(1).random(len(ratings)) < 0.1
    assert rows[2]["theirs"] == pytest.approx(np.sqrt(np.mean((ratings[held_out] - 3.0) ** 2)))
    assert rows[2]["ours"] < 2 * rows[2]["theirs"]
    assert 0 <= rows[2]["coverage_of_90_percent"] <= 1
    assert "times as quick" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fake", "message"),
    [
        (f"#!{sys.executable}\nraise SystemExit('no such package')\n", "no such package"),
        (None, "a python that exists"),
    ],
)
def test_a_peer_that_fails_or_is_not_there(tmp_path: Path, monkeypatch, capsys, fake, message) -> None:
    with pytest.raises(SystemExit):
        _run(monkeypatch, tmp_path, fake, "implicit")
    assert message in capsys.readouterr().err
