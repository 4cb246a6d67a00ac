"""Fits that are interrupted and carried on: bit for bit the fit that never was, and one line for a damaged file."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from made_up_histories import random_histories
from safetensors.torch import load_file, save_file

from recsys_vae.cli.main import main
from recsys_vae.errors import UserError
from recsys_vae.models import BPMF, HPF, SLIM, WMF, IterativeModel, fit_checkpoint
from recsys_vae.models.fit_checkpoint import FitCheckpoint

MATRIX = random_histories(n_users=25)
MODELS: dict[str, Callable[[], IterativeModel]] = {
    "wmf": lambda: WMF(30, latent_dim=4, n_iterations=7),
    "hpf": lambda: HPF(30, latent_dim=4, n_iterations=7),
    "bpmf": lambda: BPMF(30, latent_dim=4, n_burn_in=2, n_draws=3, n_thin=2),
    # Some columns are done before the last sweep, some never.
    "slim": lambda: SLIM(30, l1=0.01, l2=0.5, max_sweeps=8),
}
N_ITERATIONS = 7  # of all but slim, which has one more


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch) -> None:
    """Nothing here pulls the plug."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


class KilledError(Exception):
    """At the beginning of an iteration."""


class Fragile(FitCheckpoint):
    """Breaks off the fit at the beginning of iteration ``last``, and remembers which were begun."""

    def __init__(self, path: Path, every_seconds: float, last: int | None = None) -> None:
        super().__init__(path, every_seconds)
        self.last = last
        self.begun: list[int] = []

    def iterations(self, *arguments, **more) -> Iterator[int]:
        for iteration in super().iterations(*arguments, **more):
            self.begun.append(iteration)
            if iteration == self.last:
                raise KilledError
            yield iteration


def kill(model: str, path: Path, last: int, every_seconds: float = 0.0) -> None:
    with pytest.raises(KilledError):
        MODELS[model]().fit(MATRIX, Fragile(path, every_seconds, last))


def assert_same(model: IterativeModel, expected: IterativeModel) -> None:
    found = model.state_dict()
    for name, tensor in expected.state_dict().items():
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("model", MODELS)
def test_a_fit_that_is_never_killed_is_the_same_with_a_checkpoint(tmp_path, model) -> None:
    plain, kept = MODELS[model]().fit(MATRIX), Fragile(tmp_path / "fit.safetensors", 0.0)
    assert_same(MODELS[model]().fit(MATRIX, kept), plain)
    assert kept.begun == list(range(1, len(kept.begun) + 1))
    assert len(kept.begun) >= N_ITERATIONS


@pytest.mark.parametrize("last", [2, 5, N_ITERATIONS])
@pytest.mark.parametrize("model", MODELS)
def test_a_killed_fit_carries_on_to_the_bit(tmp_path, model, last) -> None:
    path = tmp_path / "fit.safetensors"
    kill(model, path, last)
    resumed = Fragile(path, 0.0)
    assert_same(MODELS[model]().fit(MATRIX, resumed), MODELS[model]().fit(MATRIX))
    assert resumed.begun[0] == last


@pytest.mark.parametrize("last", [6, 7, 8])
def test_columns_of_slim_that_are_done_stay_done(tmp_path, last) -> None:
    path = tmp_path / "fit.safetensors"
    kill("slim", path, last)
    moving = load_file(path)["moving"]
    assert 0 < moving.sum() < len(moving) == 30
    assert_same(MODELS["slim"]().fit(MATRIX, FitCheckpoint(path, 0.0)), MODELS["slim"]().fit(MATRIX))


@pytest.mark.parametrize("model", MODELS)
def test_a_fit_killed_twice_repeats_what_was_not_saved(tmp_path, monkeypatch, model) -> None:
    path, clock = tmp_path / "fit.safetensors", itertools.count()
    monkeypatch.setattr(fit_checkpoint, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    # The clock goes on by a second whenever it is asked.
    kill(model, path, 4, every_seconds=2.0)
    assert int(load_file(path)["n_done"]) == 2
    kill(model, path, 6, every_seconds=2.0)
    assert int(load_file(path)["n_done"]) == 4
    assert_same(MODELS[model]().fit(MATRIX, FitCheckpoint(path, 2.0)), MODELS[model]().fit(MATRIX))


@pytest.mark.parametrize("model", MODELS)
def test_a_fit_killed_before_its_first_save_starts_again(tmp_path, model) -> None:
    path = tmp_path / "fit.safetensors"
    kill(model, path, 3, every_seconds=3600.0)
    assert list(tmp_path.iterdir()) == []
    assert_same(MODELS[model]().fit(MATRIX, FitCheckpoint(path, 0.0)), MODELS[model]().fit(MATRIX))


def test_a_kill_while_saving_leaves_the_save_before(tmp_path, monkeypatch) -> None:
    path = tmp_path / "fit.safetensors"
    kill("bpmf", path, 4)
    before = path.read_bytes()

    def half(tensors, target) -> None:
        Path(target).write_bytes(before[: len(before) // 2])
        raise KilledError

    monkeypatch.setattr(fit_checkpoint, "save_file", half)
    kill("bpmf", path, 6)
    assert path.read_bytes() == before


# --- damaged and foreign files ---


def changed(**tensors: torch.Tensor | None) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        state = load_file(path) | tensors
        save_file({name: tensor for name, tensor in state.items() if tensor is not None}, path)

    return change


def shortened(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


DAMAGES = {
    "truncated": (shortened, "is not a whole checkpoint"),
    "empty": (lambda path: path.write_bytes(b""), "is not a whole checkpoint"),
    "nonsense": (lambda path: path.write_bytes(b"nonsense" * 40), "is not a whole checkpoint"),
    "a directory": (lambda path: (path.unlink(), path.mkdir()), "is not a whole checkpoint"),
    "lacks a key": (changed(items=None), "items: expected torch.float32 (30, 4), came none"),
    "one key more": (changed(other=torch.ones(2)), "other: expected none, came torch.float32 (2,)"),
    "another shape": (
        changed(users=torch.ones(2, 4)),
        "users: expected torch.float32 (25, 4), came torch.float",
    ),
    "another type": (changed(users=torch.ones(25, 4).double()), "came torch.float64 (25, 4)"),
    "counts too far": (changed(n_done=torch.tensor(7)), "n_done: expected 1 to 6, came 7"),
    "counts backwards": (changed(n_done=torch.tensor(-1)), "n_done: expected 1 to 6, came -1"),
    "no generator's state": (changed(generator=torch.zeros(5056, dtype=torch.uint8)), "generator: "),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named(tmp_path, damage) -> None:
    path = tmp_path / "fit.safetensors"
    kill("bpmf", path, 4)
    change, said = DAMAGES[damage]
    change(path)
    with pytest.raises(UserError) as caught:
        MODELS["bpmf"]().fit(MATRIX, FitCheckpoint(path, 0.0))
    assert str(caught.value).startswith(f"resume: {path} is not a whole checkpoint")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("model", [name for name in MODELS if name != "bpmf"])
def test_a_checkpoint_of_another_model_is_named(tmp_path, model) -> None:
    path = tmp_path / "fit.safetensors"
    kill("bpmf", path, 4)
    with pytest.raises(UserError, match=r"fit\.safetensors is not a whole checkpoint"):
        MODELS[model]().fit(MATRIX, FitCheckpoint(path, 0.0))


# --- a whole run ---


@pytest.mark.end_to_end
@pytest.mark.filterwarnings("ignore")
def test_a_run_that_is_killed_outright_resumes_to_the_byte(tmp_path, capfd) -> None:
    settings = (
        *("train", "model=bpmf", "dataset=tiny", "threads=1", "evaluation.metrics=[ndcg@10,recall@5]"),
        *("model.latent_dim=2", "model.n_burn_in=400"),
    )
    whole, run, partial = tmp_path / "whole", tmp_path / "killed", tmp_path / "killed.partial"
    checkpoint = partial / "checkpoint" / "fit.safetensors"
    command = [sys.executable, "-m", "recsys_vae", *settings, f"run={run}", "checkpoint_seconds=0.0"]
    with (tmp_path / "output.txt").open("w") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        try:
            give_up = time.monotonic() + 300
            while not checkpoint.exists():
                assert process.poll() is None, (tmp_path / "output.txt").read_text()
                assert time.monotonic() < give_up, (tmp_path / "output.txt").read_text()
                time.sleep(0.01)
        finally:
            process.kill()
            process.wait()
    assert process.returncode == -signal.SIGKILL
    assert 1 <= int(load_file(checkpoint)["n_done"]) < 419

    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[:-1])
    assert main([*settings, f"run={run}", "resume=true"]) == 2
    assert f"recsys-vae: resume: {checkpoint} is not a whole checkpoint" in capfd.readouterr().err

    checkpoint.write_bytes(content)
    assert main([*settings, f"run={run}", "resume=true"]) == 0
    assert "of 419 is done" in (run / "log.txt").read_text(encoding="utf-8")
    assert main([*settings, f"run={whole}"]) == 0
    assert (run / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    means = [json.loads((path / "metrics.json").read_text(encoding="utf-8")) for path in (run, whole)]
    assert means[0]["test"] == means[1]["test"]
    assert not (run / "checkpoint").exists()
