"""The hybrid through every verb, on the made-up data set."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import recsys_vae
from recsys_vae.cli.main import main
from recsys_vae.exports import read_vectors
from recsys_vae.models import Hybrid

pytestmark = pytest.mark.filterwarnings("ignore")
METRICS = "evaluation.metrics=[ndcg@10,recall@5]"
SETTINGS = (
    *("dataset=tiny", "model=hybrid", "model.variational.latent_dim=4"),
    *("model.variational.hidden_dims=[16,16,16]", "trainer.max_epochs=4", "trainer.batch_size=20"),
    *("trainer.tensorboard=false", METRICS, "trainer.monitor=ndcg@10"),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "hybrid"
    assert main(["train", *SETTINGS, f"run={path}"]) == 0
    return path


def test_it_is_evaluated_again_alike(run, tmp_path) -> None:
    recorded = json.loads((run / "metrics.json").read_text())
    assert recorded["test"]["ndcg@10"]["mean"] > 0.8
    assert main(["evaluate", f"run={run}", METRICS, f"output={tmp_path / 'm.json'}"]) == 0
    again = json.loads((tmp_path / "m.json").read_text())["test"]
    for name, value in again.items():
        assert value["mean"] == pytest.approx(recorded["test"][name]["mean"], abs=1e-6)


def test_the_log_says_what_was_chosen_and_the_run_keeps_it(run) -> None:
    model = recsys_vae.load(run).model
    assert isinstance(model, Hybrid)
    said = (run / "log.txt").read_text()
    weight, exponent = float(model.variational_weight), float(model.length_exponent)
    assert f"fusion: weight {weight:.4g}, length exponent {exponent:.2f}" in said


def test_both_paths_are_those_of_their_own_models(run, tmp_path) -> None:
    linear = [setting for setting in SETTINGS if not setting.startswith(("model", "trainer"))]
    assert main(["train", *linear, "model=rdlae", f"run={tmp_path / 'linear'}"]) == 0
    variational = [
        setting.replace("model.variational", "model") for setting in SETTINGS if "=hybrid" not in setting
    ]
    assert main(["train", *variational, "model=rec_vae", f"run={tmp_path / 'variational'}"]) == 0
    hybrid = recsys_vae.load(run).model
    for path in ("linear", "variational"):
        own = recsys_vae.load(tmp_path / path).model.state_dict()
        for name, values in getattr(hybrid, path).state_dict().items():
            assert np.array_equal(values, own[name]), name


def test_recommend_with_deviations(run, tmp_path) -> None:
    recommender = recsys_vae.load(run)
    user = recommender.known_users[0][0]
    output = tmp_path / "out.csv"
    assert main(["recommend", f"run={run}", f"user={user}", "k=3", f"output={output}"]) == 0
    assert list(pd.read_csv(output)["item_id"]) == list(recommender.recommend_user(user, k=3)["item_id"])
    arguments = [f"user={user}", "posterior=laplace", "posterior.draws=8", "k=3", f"output={output}"]
    assert main(["recommend", f"run={run}", *arguments]) == 0
    found = pd.read_csv(output)["score_std"]
    assert (found >= 0).all()
    assert (found > 0).any() == (float(recommender.model.variational_weight) > 0)


def test_export_of_tastes(run, tmp_path, capsys) -> None:
    assert main(["export", f"run={run}", f"output={tmp_path / 'taste.npz'}"]) == 0
    ids, found = read_vectors(tmp_path / "taste.npz")
    assert found["mean"].shape == found["std"].shape == (len(ids), 4)
    assert (found["std"] > 0).all()
    for argument in ("what=items", "space=retrieval"):
        capsys.readouterr()
        assert main(["export", f"run={run}", argument, f"output={tmp_path / 'no.npz'}"]) == 2
        assert "Hybrid" in capsys.readouterr().err
        assert not (tmp_path / "no.npz").exists()


@pytest.mark.parametrize("posterior", ["mode", "hmc"])
def test_the_taste_may_be_inferred_otherwise(run, tmp_path, posterior) -> None:
    quick = ["posterior.draws=16", "posterior.warmup=5"] if posterior == "hmc" else []
    output = tmp_path / "m.json"
    assert (
        main(["evaluate", f"run={run}", METRICS, f"posterior={posterior}", *quick, f"output={output}"]) == 0
    )
    assert json.loads(output.read_text())["test"]["ndcg@10"]["mean"] > 0.8


def test_sample_and_likelihoods(run) -> None:
    assert (
        main(["sample", f"run={run}", "sampler.draws=16", "sampler.warmup=5", "users=simulated", "n_users=4"])
        == 0
    )
    quick = ["n_users=3", "temperatures=10", "likelihood_draws=5"]
    for likelihood in ("importance", "bidirectional"):
        assert main(["evaluate", f"run={run}", METRICS, f"likelihood={likelihood}", *quick]) == 0


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("model.linear.l2=-1.0", "model.l2"),
        ("model.linear.dropout=1.0", "model.dropout"),
        ("model.variational.latent_dim=0", "model.latent_dim"),
        ("model.variational_weight=-1.0", "model.variational_weight"),
    ],
)
def test_mistakes_are_said_before_any_work(tmp_path, capsys, argument, said) -> None:
    assert main(["train", "dataset=tiny", "model=hybrid", argument, f"run={tmp_path / 'run'}"]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
