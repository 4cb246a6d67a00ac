"""A run that is killed outright resumes to the run that was never killed, to the byte."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from recsys_vae.cli.main import main

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.end_to_end]
N_EPOCHS = 8
# Learns slowly, so that the best epoch comes after every kill: earlier best weights would come out of the
# checkpoint whatever training did since.
SETTINGS = (
    *("dataset=tiny", "threads=1", "model.latent_dim=4", "model.hidden_dims=[8]"),
    *("evaluation.metrics=[ndcg@10,recall@5]", "trainer.monitor=ndcg@10", "trainer.tensorboard=false"),
    *("trainer.accelerator=cpu", "trainer.batch_size=3", "trainer.optimiser.lr=0.002"),
    *(f"trainer.max_epochs={N_EPOCHS}", f"trainer.patience={N_EPOCHS}", "trainer.checkpoint_seconds=0.0"),
)
LATEST_KILL = 6


def epochs_done(run: Path) -> int:
    """Whole rows in a run's history."""
    path = run / "history.csv"
    return max(path.read_text(encoding="utf-8").count("\n") - 1, 0) if path.exists() else 0


def history(run: Path) -> pd.DataFrame:
    return pd.read_csv(run / "history.csv").drop(columns="seconds")


def means(run: Path) -> dict[str, object]:
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    return {part: metrics[part] for part in ("validation", "test", "best_epoch", "n_epochs")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Callable[[str], Path]:
    """The run that was never killed, of a model."""

    @functools.cache
    def train(model: str) -> Path:
        run = tmp_path_factory.mktemp("runs") / model
        assert main(["train", f"model={model}", *SETTINGS, f"run={run}"]) == 0
        assert means(run)["best_epoch"] >= LATEST_KILL, (
            "the best epoch comes too early for this test to mean much"
        )
        return run

    return train


@pytest.mark.parametrize(
    ("model", "after_epochs", "delay"),
    [
        pytest.param("mult_vae", 1, 0.0, id="around the first checkpoint"),
        pytest.param("mult_vae", 3, 0.05, id="in the middle of an epoch"),
        pytest.param("mult_vae", LATEST_KILL, 0.0, id="with the history ahead of the checkpoint"),
        pytest.param("rec_vae", 3, 0.05, id="rec_vae, in the middle of an epoch"),
    ],
)
def test_a_killed_run_resumes_to_the_byte(whole, tmp_path, model, after_epochs, delay) -> None:
    settings = (f"model={model}", *SETTINGS)
    run, partial = tmp_path / "killed", tmp_path / "killed.partial"
    command = [sys.executable, "-m", "recsys_vae", "train", *settings, f"run={run}"]
    with (tmp_path / "output.txt").open("w") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        try:
            give_up = time.monotonic() + 120
            while epochs_done(partial) < after_epochs:
                assert process.poll() is None, (tmp_path / "output.txt").read_text()
                assert time.monotonic() < give_up, (tmp_path / "output.txt").read_text()
                time.sleep(0.001)
            time.sleep(delay)
        finally:
            process.kill()
            process.wait()
    assert process.returncode == -signal.SIGKILL
    assert partial.is_dir()
    assert not run.exists()
    assert after_epochs <= epochs_done(partial) < N_EPOCHS

    assert main(["train", *settings, f"run={run}", "resume=true"]) == 0
    expected = whole(model)
    assert not partial.exists()
    pd.testing.assert_frame_equal(history(run), history(expected), check_exact=True)
    assert means(run) == means(expected)
    assert (run / "model.safetensors").read_bytes() == (expected / "model.safetensors").read_bytes()
