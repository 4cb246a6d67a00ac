"""RecVAE through every verb, on the made-up data set, and the posterior that it was trained for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import recsys_vae
from recsys_vae.cli.main import main
from recsys_vae.exports import read_vectors
from recsys_vae.posterior import Mode, PowerPerItem

pytestmark = pytest.mark.filterwarnings("ignore")
SETTINGS = (
    *("dataset=tiny", "model=rec_vae", "model.latent_dim=4", "model.hidden_dims=[16,16,16]"),
    *("trainer.tensorboard=false", "trainer.batch_size=20", "trainer.optimiser.lr=0.005"),
    *("evaluation.metrics=[ndcg@10,recall@5]", "trainer.monitor=ndcg@10", "trainer.max_epochs=12"),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "rec_vae"
    assert main(["train", *SETTINGS, f"run={path}"]) == 0
    return path


def test_it_learns_and_is_evaluated_again_alike(run, tmp_path) -> None:
    recorded = json.loads((run / "metrics.json").read_text())["test"]
    assert recorded["ndcg@10"]["mean"] > 0.8  # three groups of ten items; chance is far below
    assert main(["evaluate", f"run={run}", SETTINGS[7], f"output={tmp_path / 'm.json'}"]) == 0
    again = json.loads((tmp_path / "m.json").read_text())["test"]
    for name, value in again.items():
        assert value["mean"] == pytest.approx(recorded[name]["mean"], abs=1e-6)


def test_a_run_holds_the_previous_encoder(run) -> None:
    model = recsys_vae.load(run).model
    state = model.state_dict()
    assert "prior.previous_encoder.head.weight" in state
    # The prior took the encoder over before the decoder's turn, which is the last of an epoch.
    for name, values in model.encoder.state_dict().items():
        assert np.array_equal(state[f"prior.previous_encoder.{name}"], values)


def test_recommend(run, tmp_path) -> None:
    recommender = recsys_vae.load(run)
    user = recommender.known_users[0][0]
    output = tmp_path / "out.csv"
    assert main(["recommend", f"run={run}", f"user={user}", "k=3", f"output={output}"]) == 0
    assert list(pd.read_csv(output)["item_id"]) == list(recommender.recommend_user(user, k=3)["item_id"])
    arguments = [f"user={user}", "posterior=laplace", "posterior.draws=8", "k=3", f"output={output}"]
    assert main(["recommend", f"run={run}", *arguments]) == 0
    assert (pd.read_csv(output)["score_std"] > 0).all()


def test_inner_product_search_over_exported_vectors_gives_the_recommendations(run, tmp_path) -> None:
    for what in ("users", "items"):
        arguments = [f"what={what}", "space=retrieval", f"output={tmp_path / what}.parquet"]
        assert main(["export", f"run={run}", *arguments]) == 0
    user_ids, users = read_vectors(tmp_path / "users.parquet")
    item_ids, items = read_vectors(tmp_path / "items.parquet")
    recommender = recsys_vae.load(run)
    for row in range(0, len(user_ids), 31):
        scores = items["vector"] @ users["vector"][row]
        scores[recommender.history_of_user(user_ids[row]).indices] = -np.inf
        best = item_ids[np.argsort(-scores, kind="stable")[:5]]
        assert list(recommender.recommend_user(user_ids[row], k=5)["item_id"]) == list(best)
    assert main(["export", f"run={run}", f"output={tmp_path / 'taste.npz'}"]) == 0
    assert read_vectors(tmp_path / "taste.npz")[1]["mean"].shape == (len(user_ids), 4)


@pytest.mark.parametrize("posterior", ["mode", "mean_field", "hmc"])
def test_the_posterior_is_the_one_that_it_was_trained_for(run, tmp_path, capsys, posterior) -> None:
    quick = {"hmc": ["posterior.draws=16", "posterior.warmup=5"], "mean_field": ["posterior.steps=5"]}
    output = tmp_path / "m.json"
    arguments = [f"posterior={posterior}", SETTINGS[7], *quick.get(posterior, [])]
    assert main(["evaluate", f"run={run}", *arguments, f"output={output}"]) == 0
    record = json.loads(output.read_text())
    assert record["posterior"]["likelihood_power"] == "200/items"  # gamma is 0.005
    assert "likelihood_power 200/items" in capsys.readouterr().out
    if posterior == "mode":
        given = [*arguments, "likelihood_power=200/items", f"output={output}"]
        assert main(["evaluate", f"run={run}", *given]) == 0
        assert json.loads(output.read_text())["test"] == record["test"]
        recommender = recsys_vae.load(run).infer_by(Mode())
        assert recommender.inference.likelihood_power == PowerPerItem(200.0)


def test_sample_and_take_up_again(run, tmp_path, capsys) -> None:
    arguments = [f"run={run}", "sampler.draws=16", "sampler.warmup=5", "n_users=5"]
    assert main(["sample", *arguments, f"output={tmp_path / 'draws.nc'}"]) == 0
    assert "likelihood_power 200/items" in capsys.readouterr().out
    assert main(["sample", *arguments, "users=simulated"]) == 0


def test_likelihoods_between_their_bounds(run, tmp_path) -> None:
    output = tmp_path / "m.json"
    arguments = ["likelihood=bidirectional", "n_users=3", "temperatures=20", "likelihood_draws=10"]
    assert main(["evaluate", f"run={run}", SETTINGS[7], *arguments, f"output={output}"]) == 0
    found = json.loads(output.read_text())["log_likelihood"]
    assert found["annealed, forward"]["mean"] < found["annealed, backward"]["mean"] + 1.0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["model=rec_vae", "model.hidden_dims=[8,4]"], "model.hidden_dims: expected at least one width"),
        (
            ["model=rec_vae", "model.prior_weights=[1.0,1.0,1.0]"],
            "model.prior_weights: expected three numbers",
        ),
        (["model=rec_vae", "trainer.objective.n_encoder_passes=0"], "objective.n_encoder_passes"),
        (["model=rec_vae", "trainer.kl_schedule.cap=-1.0"], "kl_schedule.cap"),
    ],
)
def test_mistakes_are_said_before_any_work(tmp_path, capsys, arguments, said) -> None:
    assert main(["train", "dataset=tiny", *arguments, f"run={tmp_path / 'run'}"]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
