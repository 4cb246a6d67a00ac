"""Models whose scores are inner products, each through every verb, on the made-up data set."""

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
METRICS = "evaluation.metrics=[ndcg@10,recall@5]"
SETTINGS = {
    "wmf": ["model.latent_dim=4"],
    "bpmf": ["model.latent_dim=4", "model.n_burn_in=5", "model.n_draws=3"],
    "hpf": ["model.latent_dim=4", "model.n_iterations=40"],
    "diff_rec": [
        *("model.hidden_dims=[16]", "trainer.max_epochs=20", "trainer.batch_size=20"),
        *("trainer.optimiser.lr=0.02", "trainer.monitor=ndcg@10", "trainer.tensorboard=false"),
    ],
    "popularity": [],
    "ppca": ["model.latent_dim=4"],
}
# Coordinates of a taste, where there is a posterior of one; BPMF has a place for each of its draws.
N_LATENT = {"wmf": 4, "bpmf": 12, "hpf": 4, "ppca": 4}


@pytest.fixture(scope="module", params=SETTINGS)
def model(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def run(tmp_path_factory, model) -> Path:
    path = tmp_path_factory.mktemp("runs") / model
    assert main(["train", "dataset=tiny", f"model={model}", *SETTINGS[model], METRICS, f"run={path}"]) == 0
    return path


def export(run: Path, output: Path, *settings: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    assert main(["export", f"run={run}", *settings, f"output={output}"]) == 0
    return read_vectors(output)


def test_it_is_evaluated_again_alike(run, model, tmp_path) -> None:
    recorded = json.loads((run / "metrics.json").read_text())["test"]
    # Three groups of ten items of thirty: only who knows of the groups comes near to 1.
    assert (recorded["ndcg@10"]["mean"] > 0.8) == (model != "popularity")
    assert main(["evaluate", f"run={run}", METRICS, f"output={tmp_path / 'm.json'}"]) == 0
    again = json.loads((tmp_path / "m.json").read_text())["test"]
    assert again.keys() == recorded.keys() == {"ndcg@10", "recall@5"}
    for name, value in again.items():
        assert value["mean"] == pytest.approx(recorded[name]["mean"], abs=1e-6)


def test_a_known_user_is_recommended_what_is_not_yet_had(run, tmp_path) -> None:
    recommender = recsys_vae.load(run)
    user, output = recommender.known_users[0][0], tmp_path / "out.csv"
    assert main(["recommend", f"run={run}", f"user={user}", "k=3", f"output={output}"]) == 0
    found = list(pd.read_csv(output)["item_id"])
    assert found == list(recommender.recommend_user(user, k=3)["item_id"])
    had = recommender.catalogue.item_ids[recommender.history_of_user(user).indices]
    assert len(set(found)) == 3
    assert not set(found) & set(had)


def test_products_of_retrieval_vectors_are_the_list_of_every_user(run, tmp_path) -> None:
    users, of_users = export(run, tmp_path / "users.npz", "what=users", "space=retrieval")
    items, of_items = export(run, tmp_path / "items.npz", "what=items")
    scores = of_users["vector"] @ of_items["vector"].T
    recommender = recsys_vae.load(run)
    assert list(users) == list(recommender.known_users[0])
    assert list(items) == list(recommender.catalogue.item_ids)
    for row in range(0, len(users), 10):
        scores[row, recommender.history_of_user(users[row]).indices] = -np.inf
        best = items[np.argsort(-scores[row], kind="stable")[:5]]
        assert list(recommender.recommend_user(users[row], k=5)["item_id"]) == list(best)


def test_tastes_are_exported_where_there_is_a_posterior(run, model, tmp_path, capsys) -> None:
    output = tmp_path / "taste.npz"
    if model not in N_LATENT:
        assert main(["export", f"run={run}", f"output={output}"]) == 2
        assert "expected what=users space=retrieval or what=items" in capsys.readouterr().err
        assert not output.exists()
        return
    ids, found = export(run, output)
    recommender = recsys_vae.load(run)
    users, histories = recommender.known_users
    assert list(ids) == list(users)
    expected = recommender.model.posterior(histories)
    assert found["mean"].shape == (len(ids), N_LATENT[model])
    assert (found["std"] > 0).all()
    np.testing.assert_allclose(found["mean"], expected.mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["std"], expected.standard_deviation, rtol=1e-4, atol=1e-5)
