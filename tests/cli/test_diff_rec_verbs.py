"""DiffRec through the verbs, on the made-up data set."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import recsys_vae
from recsys_vae.cli.main import main
from recsys_vae.exports import read_vectors

pytestmark = pytest.mark.filterwarnings("ignore")
SETTINGS = (
    *("dataset=tiny", "model=diff_rec", "model.hidden_dims=[16]", "trainer.tensorboard=false"),
    *("trainer.batch_size=20", "trainer.optimiser.lr=0.01", "trainer.checkpoint_seconds=0.0"),
    *("evaluation.metrics=[ndcg@10,recall@5]", "trainer.monitor=ndcg@10", "trainer.max_epochs=30"),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "diff_rec"
    assert main(["train", *SETTINGS, f"run={path}"]) == 0
    return path


def test_it_learns_and_is_evaluated_again_alike(run, tmp_path) -> None:
    recorded = json.loads((run / "metrics.json").read_text())["test"]
    assert recorded["ndcg@10"]["mean"] > 0.6  # three groups of ten items; chance is far below
    metrics = "evaluation.metrics=[ndcg@10,recall@5]"
    assert main(["evaluate", f"run={run}", metrics, f"output={tmp_path / 'm.json'}"]) == 0
    again = json.loads((tmp_path / "m.json").read_text())["test"]
    for name, value in again.items():
        assert value["mean"] == pytest.approx(recorded[name]["mean"], abs=1e-6)


def test_recommend_and_what_has_no_posterior(run, tmp_path, capsys) -> None:
    recommender = recsys_vae.load(run)
    user = recommender.known_users[0][0]
    output = tmp_path / "out.csv"
    assert main(["recommend", f"run={run}", f"user={user}", "k=3", f"output={output}"]) == 0
    assert list(pd.read_csv(output)["item_id"]) == list(recommender.recommend_user(user, k=3)["item_id"])
    assert main(["recommend", f"run={run}", f"user={user}", "posterior=mode"]) == 2
    assert "posterior: expected a model with a posterior over tastes" in capsys.readouterr().err


def test_vectors_for_retrieval_but_none_of_tastes(run, tmp_path, capsys) -> None:
    vectors = {}
    for what in ("users", "items"):
        output = tmp_path / f"{what}.npz"
        assert main(["export", f"run={run}", f"what={what}", "space=retrieval", f"output={output}"]) == 0
        vectors[what] = read_vectors(output)
    recommender = recsys_vae.load(run)
    user = vectors["users"][0][0]
    scores = vectors["items"][1]["vector"] @ vectors["users"][1]["vector"][0]
    scores[recommender.history_of_user(user).indices] = -np.inf
    best = vectors["items"][0][np.argsort(-scores, kind="stable")[:5]]
    assert list(recommender.recommend_user(user, k=5)["item_id"]) == list(best)
    capsys.readouterr()
    assert main(["export", f"run={run}", f"output={tmp_path / 'no.npz'}"]) == 2
    assert "expected what=users space=retrieval or what=items" in capsys.readouterr().err


def test_an_interrupted_run_resumes_to_the_byte(run, tmp_path, monkeypatch) -> None:
    from recsys_vae.exports import RunWriter

    write = RunWriter.write_history

    def stop_after_five(self, rows) -> None:
        write(self, rows)
        if rows[0]["epoch"] == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunWriter, "write_history", stop_after_five)
    assert main(["train", *SETTINGS, f"run={tmp_path / 'run'}"]) == 130
    monkeypatch.undo()
    assert (tmp_path / "run.partial").is_dir()
    assert main(["train", *SETTINGS, f"run={tmp_path / 'run'}", "resume=true"]) == 0
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["model.n_steps=0"], "model.n_steps"),
        (["model.time_dim=3"], "model.time_dim: expected an even number"),
        (["model.noise_scale=2.0"], "model.noise_scale: expected noise_scale * noise_max below 1"),
        (["model.noise_scale=0.0"], "model.noise_scale"),
        (["model.noise_min=1.0"], "model.noise_max: expected more than noise_min"),
        (["model.n_denoising_steps=6"], "model.n_denoising_steps: expected at most n_steps, 5"),
        (["trainer.objective.weighting=other"], "objective.weighting: expected one of elbo, simplified"),
        (["trainer.objective.uniform_share=0.0"], "objective.uniform_share"),
    ],
)
def test_mistakes_are_said_before_any_work(tmp_path, capsys, arguments, said) -> None:
    arguments = ["dataset=tiny", "model=diff_rec", *arguments, f"run={tmp_path / 'run'}"]
    assert main(["train", *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
