"""Training on two devices: Lightning starts the command a second time, and only the first process speaks and writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

pytestmark = [pytest.mark.end_to_end, pytest.mark.slow]
SETTINGS = (
    *("dataset=tiny", "threads=1", "model.latent_dim=4", "model.hidden_dims=[8]", "trainer.batch_size=4"),
    *("evaluation.metrics=[ndcg@10]", "trainer.monitor=ndcg@10", "trainer.optimiser.lr=0.002"),
    *(
        "trainer.accelerator=cpu",
        "trainer.devices=2",
        "trainer.strategy=ddp",
        "trainer.checkpoint_seconds=0.0",
    ),
)


def train(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    # A launcher's variables would make these processes part of somebody else's group.
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    }
    command = [sys.executable, "-m", "recsys_vae", "train", *SETTINGS, *more]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def test_two_processes_write_one_run_and_one_table(tmp_path) -> None:
    done = train(tmp_path, "trainer.max_epochs=6")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["tiny-mult_vae-seed1"]
    run = tmp_path / "runs" / "tiny-mult_vae-seed1"
    assert not (run / "checkpoint").exists()
    assert done.stdout.count("tiny, mult_vae, seed 1") == 1
    assert done.stderr.count("training, 12 validation") == 1
    assert "Warning" not in done.stderr
    history = pd.read_csv(run / "history.csv")
    assert list(history["epoch"]) == list(range(6))
    assert history["loss"].iloc[-1] < history["loss"].iloc[0]
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["validation"]["ndcg@10"]["mean"] == pytest.approx(history["validation_ndcg@10"].max())


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path) -> None:
    done = train(tmp_path, "trainer.max_epochs=0")
    assert done.returncode == 2
    assert [line for line in done.stderr.splitlines() if line.startswith("recsys-vae: ")] == [
        "recsys-vae: trainer.max_epochs: expected a whole number of at least 1, came 0"
    ]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()
