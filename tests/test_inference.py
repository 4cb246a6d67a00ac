"""A method of inference bound to a model: batches, seeds, diagnostics; and users that the model makes up."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from made_up_histories import random_histories
from made_up_models import grouped_histories, ppca, random_vae, trained_vae
from scipy.sparse import csr_array
from scipy.stats import chisquare

from recsys_vae.catalogue import Catalogue
from recsys_vae.errors import UserError
from recsys_vae.exports import Run
from recsys_vae.inference import Inference, simulate_histories, trained_likelihood_power
from recsys_vae.models import EASE, MultDAE, SparseRows
from recsys_vae.posterior import (
    Encoder,
    InferredPosterior,
    Laplace,
    MarkovChains,
    Mode,
    PosteriorMethod,
    PowerPerItem,
    predict,
)
from recsys_vae.recommender import Recommender


@dataclass(frozen=True)
class Told(PosteriorMethod):
    """Says of each user how many items there are, and which seed it was given."""

    batch_size: int = 4
    with_draws: bool = True

    def infer(self, model, histories, likelihood_power=1.0, *, seed=0, progress=None):
        lengths = torch.from_numpy(np.diff(histories.indptr)).float()
        mean = (lengths / 10.0)[:, None].expand(-1, 4).contiguous()
        draws = torch.stack([mean - 1.0, mean + 1.0]) if self.with_draws else None
        told = {"length": lengths, "seed": torch.full_like(lengths, seed), "size": 0 * lengths + len(mean)}
        return InferredPosterior(mean, torch.ones_like(mean), draws, None, told)


def test_batches_are_the_methods_and_diagnostics_come_in_the_users_order() -> None:
    matrix = random_histories(10)
    inference = Inference(random_vae(), Told(), seed=3, remember=True)
    inference.score(matrix[:9])
    inference.vectors(matrix[9:])
    told = inference.diagnostics()
    assert told["length"].tolist() == np.diff(matrix.indptr).tolist()
    assert told["size"].tolist() == [4] * 8 + [1, 1]
    seeds = told["seed"].tolist()
    assert len(set(seeds)) == 4
    assert [len(set(seeds[at : at + 4])) for at in (0, 4)] == [1, 1]


def test_seeds_follow_from_the_seed_and_the_batch() -> None:
    matrix = random_histories(10)

    def seeds(seed: int) -> list[float]:
        inference = Inference(random_vae(), Told(), seed=seed)
        inference.score(matrix)
        return list(inference.diagnostics()["seed"])

    assert seeds(3) == seeds(3)
    assert not set(seeds(3)) & set(seeds(4))


def test_what_was_asked_before_changes_nothing() -> None:
    matrix = random_histories(10)
    inference = Inference(random_vae(), Told(), seed=3)
    inference.score(matrix[:4])
    first = inference.diagnostics()
    inference.vectors(matrix[4:])
    assert inference.diagnostics()["length"].tolist() == np.diff(matrix.indptr)[4:].tolist()
    inference.score(matrix[:4])
    assert {name: list(values) for name, values in inference.diagnostics().items()} == {
        name: list(values) for name, values in first.items()
    }


def test_nobody_to_infer() -> None:
    inference = Inference(random_vae(), MarkovChains(draws=16, warmup=2))
    nobody = random_histories(3)[:0]
    assert inference.score(nobody).shape == (0, 30)
    assert {name: v.shape for name, v in inference.vectors(nobody).items()} == {"mean": (0, 4), "std": (0, 4)}
    assert recommender_of(random_vae()).infer_by(Mode()).score(nobody).shape == (0, 30)


def test_same_seed_same_scores() -> None:
    matrix = random_histories(5)
    method = MarkovChains(draws=16, warmup=2, batch_size=3)
    first, second, other = (
        Inference(random_vae(), method, seed=seed).predict(matrix, with_deviation=True) for seed in (1, 1, 2)
    )
    assert torch.equal(first.scores, second.scores)
    assert torch.equal(first.standard_deviation, second.standard_deviation)
    assert not torch.equal(first.scores, other.scores)


def test_a_method_without_randomness_does_not_care_for_batches() -> None:
    matrix = grouped_histories(6, seed=9)
    scores = [
        Inference(trained_vae(), Mode(tolerance=1e-3, batch_size=size)).score(matrix) for size in (1, 3, 100)
    ]
    torch.testing.assert_close(scores[0], scores[1], rtol=0, atol=1e-2)
    torch.testing.assert_close(scores[0], scores[2], rtol=0, atol=1e-2)


def test_the_predictive_is_averaged_or_plugged_in() -> None:
    model, matrix = random_vae(), random_histories(6)
    whole = Told().infer(model, matrix)
    average = Inference(model, Told()).predict(matrix, with_deviation=True)
    expected = predict(model, whole, with_deviation=True)
    torch.testing.assert_close(average.scores, expected.scores)
    torch.testing.assert_close(average.standard_deviation, expected.standard_deviation)
    plugged = Inference(model, Told(), predictive="plug_in").predict(matrix, with_deviation=True)
    with torch.no_grad():
        torch.testing.assert_close(plugged.scores, model.decode(whole.mean).log_softmax(dim=-1))
    assert plugged.standard_deviation is None
    one = Inference(model, Told(), max_draws=1).predict(matrix)
    with torch.no_grad():
        torch.testing.assert_close(one.scores, model.decode(whole.mean - 1.0).log_softmax(dim=-1))
    assert not torch.allclose(plugged.scores, average.scores)


def test_the_encoders_ranking_is_the_models_own() -> None:
    model, matrix = trained_vae(), grouped_histories(10, seed=9)
    scores = Inference(model, Encoder()).score(matrix)
    torch.testing.assert_close(scores, model.score(matrix).log_softmax(dim=-1))


def test_vectors_are_float32() -> None:
    vectors = Inference(ppca(), Laplace()).vectors(grouped_histories(7, seed=9))
    assert {name: (v.shape, v.dtype) for name, v in vectors.items()} == {
        "mean": ((7, 20), np.float32),
        "std": ((7, 20), np.float32),
    }


def test_what_cannot_be_inferred() -> None:
    for model in (EASE(30), MultDAE(30, latent_dim=2, hidden_dims=[])):
        with pytest.raises(UserError, match=f"posterior: .*{type(model).__name__}"):
            Inference(model, Mode())
    with pytest.raises(UserError, match="predictive: expected average or plug_in, came 'plug-in'"):
        Inference(random_vae(), Mode(), predictive="plug-in")
    with pytest.raises(UserError, match=r"likelihood_power: expected a positive number, came -1\.0"):
        Inference(random_vae(), Mode(), -1.0)
    with pytest.raises(UserError, match="seed: expected a whole number of at least 0, came -1"):
        Inference(random_vae(), Mode(), seed=-1)


def run_of(tmp_path, config, metrics, epochs: str | None) -> Run:
    files = {}
    if epochs is not None:
        (tmp_path / "history.csv").write_text(epochs)
        files["history.csv"] = {}
    return Run(tmp_path, {"files": files}, config, {}, metrics)


SCHEDULED = {"trainer": {"kl_schedule": {"cap": 0.2, "epochs": 10}}}
EPOCHS = "epoch,kl_weight\n0,0.1\n1,0.125\n2,0.2\n"


@pytest.mark.parametrize(
    ("config", "metrics", "epochs", "power"),
    [
        (SCHEDULED, {"best_epoch": 2}, EPOCHS, 5.0),
        (SCHEDULED, {"best_epoch": 1}, EPOCHS, 8.0),  # the best came before the cap was reached
        (SCHEDULED, {"best_epoch": 1}, None, 5.0),
        (SCHEDULED, {"best_epoch": 1}, "epoch,loss\n0,1.0\n1,1.0\n", 5.0),
        (SCHEDULED, {"best_epoch": 7}, EPOCHS, 5.0),
        (SCHEDULED, {}, EPOCHS, 5.0),
        ({"trainer": {"kl_schedule": {"cap": 1}}}, {}, None, 1.0),
        ({"trainer": {"kl_schedule": {}}}, {}, None, 1.0),
        ({"trainer": {"max_epochs": 3}}, {}, None, 1.0),
        ({"trainer": None}, {}, None, 1.0),
        ({}, {}, None, 1.0),
    ],
)
def test_the_power_that_a_run_was_trained_for(tmp_path, config, metrics, epochs, power) -> None:
    assert trained_likelihood_power(run_of(tmp_path, config, metrics, epochs)) == pytest.approx(power)


def test_a_weight_for_each_item_makes_a_power_per_item(tmp_path) -> None:
    config = {"trainer": {"kl_schedule": {"cap": 0.01, "epochs": 0.0, "per_item": True}}}
    assert trained_likelihood_power(run_of(tmp_path, config, {}, None)) == PowerPerItem(100.0)
    config["trainer"]["kl_schedule"]["per_item"] = False
    assert trained_likelihood_power(run_of(tmp_path, config, {}, None)) == 100.0


def test_a_run_without_a_prior_has_no_power_of_its_own(tmp_path) -> None:
    with pytest.raises(UserError, match=r"likelihood_power: expected a number, .* KL weight of 0"):
        trained_likelihood_power(run_of(tmp_path, {"trainer": {"kl_schedule": {"cap": 0.0}}}, {}, None))


def test_simulated_histories_have_the_lengths_and_the_law_that_were_asked_for() -> None:
    model = random_vae()
    lengths = np.array([5000, 0, 1, 20_000])
    tastes, histories = simulate_histories(model, lengths, seed=1)
    assert tastes.shape == (4, 4)
    assert histories.dtype == np.float32
    assert histories.sum(axis=1).tolist() == lengths.tolist()
    with torch.no_grad():
        probabilities = torch.softmax(model.decode(tastes), dim=-1).double().numpy()
    for user in (0, 3):
        expected = probabilities[user] / probabilities[user].sum() * lengths[user]
        counts = histories.toarray()[user].astype(np.float64)
        rare = expected < 5.0
        expected = np.append(expected[~rare], expected[rare].sum())
        counts = np.append(counts[~rare], counts[rare].sum())
        kept = expected > 0
        assert chisquare(counts[kept], expected[kept]).pvalue > 1e-4
        # Of another user's taste it is not the law.
        other = probabilities[2][~rare], probabilities[2][rare].sum()
        wrong = np.append(*other) * lengths[user] / probabilities[2].sum()
        assert chisquare(counts[kept], wrong[kept] * counts[kept].sum() / wrong[kept].sum()).pvalue < 1e-10


def test_simulated_tastes_are_draws_from_the_prior() -> None:
    n = 600
    tastes, histories = simulate_histories(random_vae(), np.ones(n, dtype=np.int64), seed=2)
    assert (tastes.mean(dim=0).abs() < 4.5 * n**-0.5).all()
    assert ((tastes.var(dim=0) - 1.0).abs() < 4.5 * (2 / n) ** 0.5).all()
    assert histories.shape == (n, 30)
    again = simulate_histories(random_vae(), np.ones(n, dtype=np.int64), seed=2)
    assert torch.equal(again[0], tastes)
    assert (again[1] != histories).nnz == 0
    assert not torch.equal(simulate_histories(random_vae(), np.ones(n, dtype=np.int64), seed=3)[0], tastes)


def recommender_of(model) -> Recommender:
    counts = np.arange(model.n_items, 0, -1)
    return Recommender(model, Catalogue(np.arange(100, 100 + model.n_items), None, counts))


def test_a_recommender_infers_by_what_it_is_told() -> None:
    recommender = recommender_of(trained_vae())
    plain = recommender.recommend([100, 105], k=5)
    assert list(plain.columns) == ["rank", "item_id", "score"]
    assert recommender.infer_by(MarkovChains(draws=40, warmup=20), seed=1) is recommender
    table = recommender.recommend([100, 105], k=5)
    assert list(table.columns) == ["rank", "item_id", "score", "score_std"]
    assert (table["score_std"] > 0).all()
    assert table["score"].is_monotonic_decreasing
    assert (table["score"] < 0).all()  # logarithms of probabilities

    # The deviations are those of the ranked items, by hand.
    inference = Inference(trained_vae(), MarkovChains(draws=40, warmup=20), 1.0, seed=1)
    found = inference.predict(recommender.history_of([100, 105]), with_deviation=True)
    columns = table["item_id"].to_numpy() - 100
    np.testing.assert_allclose(table["score_std"], found.standard_deviation[0, columns.tolist()], rtol=1e-6)
    np.testing.assert_allclose(table["score"], found.scores[0, columns.tolist()], rtol=1e-6)


def test_a_point_estimate_has_no_deviation() -> None:
    recommender = recommender_of(trained_vae()).infer_by(Mode(), 5.0)
    assert "score_std" not in recommender.recommend([100], k=3)
    assert recommender.inference is not None
    assert recommender.inference.likelihood_power == 5.0


def test_nobodys_ranking_is_the_popularity_without_a_deviation() -> None:
    recommender = recommender_of(trained_vae()).infer_by(MarkovChains(draws=16, warmup=2))
    matrix = csr_array(np.vstack([np.zeros(50), np.eye(50)[3]]).astype(np.float32))
    ranked, deviations = recommender.rank_with_deviation(matrix, 4)
    assert ranked.items[0].tolist() == [0, 1, 2, 3]
    assert deviations[0].isnan().all()
    assert deviations[1].isfinite().all()


def test_vectors_of_tastes_are_those_of_the_method() -> None:
    matrix = grouped_histories(5, seed=9)
    recommender = recommender_of(trained_vae())
    plain = recommender.taste_vectors(matrix)
    vectors = recommender.infer_by(Laplace(), 2.0).taste_vectors(matrix)
    expected = Laplace().infer(trained_vae(), matrix, 2.0)
    np.testing.assert_array_equal(vectors["mean"], expected.mean.numpy())
    np.testing.assert_array_equal(vectors["std"], expected.standard_deviation.numpy())
    assert not np.allclose(vectors["mean"], plain["mean"])
    exact = ppca().posterior(matrix)
    np.testing.assert_allclose(recommender_of(ppca()).taste_vectors(matrix)["mean"], exact.mean, rtol=1e-6)
    assert SparseRows.from_csr(matrix).n_users == 5


def test_a_recommender_without_a_posterior_says_so() -> None:
    with pytest.raises(UserError, match=r"posterior: expected a model with a posterior.*EASE"):
        recommender_of(EASE(12)).infer_by(Mode())
