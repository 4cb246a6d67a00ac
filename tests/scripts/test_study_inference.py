"""The study of inference cuts histories, compares and ranks as it says, and runs through on the made-up data set."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch
from made_up_histories import random_histories
from scipy.sparse import csr_array

from recsys_vae.catalogue import Catalogue
from recsys_vae.cli.main import main as command
from recsys_vae.evaluation.holm import holm
from recsys_vae.interactions import HeldOut
from recsys_vae.models import MultVAE
from recsys_vae.recommender import Recommender

pytestmark = pytest.mark.filterwarnings("ignore")
N_ITEMS = 150
SMALL = ["model.latent_dim=4", "model.hidden_dims=[8]", "trainer.max_epochs=4", "trainer.tensorboard=false"]


@pytest.fixture(scope="module")
def study() -> ModuleType:
    return importlib.import_module("study_inference")


@pytest.fixture(scope="module")
def held_out() -> HeldOut:
    """Histories of 0 to 80 items and targets beside them; one user in eight has no target."""
    rng = np.random.default_rng(3)
    n_users = 120
    history, target = np.zeros((2, n_users, N_ITEMS), dtype=np.float32)
    for user in range(n_users):
        items = rng.permutation(N_ITEMS)
        length = int(rng.integers(0, 81))
        history[user, items[:length]] = 1.0
        target[user, items[length : length + user % 8]] = 1.0
    return HeldOut(np.arange(n_users) + 1000, csr_array(history), csr_array(target))


def _lengths(matrix: csr_array) -> np.ndarray:
    return np.diff(matrix.indptr)


@pytest.fixture(scope="module")
def shorten(study):
    return sys.modules[study.make_strata.__module__].shorten


def test_shorten_takes_a_random_part_of_each_row(shorten) -> None:
    history = random_histories(400, 60, density=0.5, empty_row=False)
    short = shorten(history, 6, 20, np.random.default_rng(0))
    assert set(_lengths(short)) == set(range(6, 21))
    assert short.has_canonical_format
    dense, cut = history.toarray(), short.toarray()
    assert ((cut == 0.0) | (cut == dense)).all()
    # No place of a row is favoured: each item is kept as often as any other that is there.
    kept = cut.sum(axis=0) / dense.sum(axis=0)
    share = cut.sum() / dense.sum()
    assert np.abs(kept - share).max() < 4.5 * np.sqrt(share * (1 - share) / dense.sum(axis=0).min())


def test_strata(study, held_out) -> None:
    strata = {stratum.name: stratum for stratum in study.make_strata(held_out, None, seed=1)}
    assert list(strata) == ["1-5", "6-20", "21-50", "more"]
    lengths, n_targets = _lengths(held_out.history), _lengths(held_out.target)
    for name, least, shortest, longest in (
        ("1-5", 5, 1, 5),
        ("6-20", 20, 6, 20),
        ("21-50", 50, 21, 50),
        ("more", 51, 51, 80),
    ):
        stratum = strata[name]
        users = stratum.held_out.user_ids - 1000
        assert set(users) == set(np.flatnonzero((lengths >= least) & (n_targets > 0)))
        assert (stratum.liked != held_out.history[users]).nnz == 0
        assert (stratum.held_out.target != held_out.target[users]).nnz == 0
        cut = _lengths(stratum.held_out.history)
        assert cut.min() >= shortest
        assert cut.max() <= longest
        assert stratum.held_out.history.multiply(stratum.liked).nnz == stratum.held_out.history.nnz
    assert (strata["more"].held_out.history != strata["more"].liked).nnz == 0


def test_strata_follow_the_seed_and_the_number_of_users(study, held_out) -> None:
    first, again, other = (study.make_strata(held_out, 10, seed)[0] for seed in (1, 1, 2))
    assert first.held_out.n_users == 10
    assert (first.held_out.history != again.held_out.history).nnz == 0
    assert set(first.held_out.user_ids) != set(other.held_out.user_ids)
    assert first.first(4).held_out.user_ids.tolist() == first.held_out.user_ids[:4].tolist()


def test_strata_that_nobody_reaches_are_left_out(study, shorten, held_out) -> None:
    few = HeldOut(
        held_out.user_ids, shorten(held_out.history, 4, 9, np.random.default_rng(0)), held_out.target
    )
    assert [stratum.name for stratum in study.make_strata(few, None, seed=0)] == ["1-5"]


def test_measure_ranks_neither_history_nor_what_was_cut(study, held_out) -> None:
    model = MultVAE(N_ITEMS, latent_dim=3, hidden_dims=[5], seed=2).eval()
    recommender = Recommender(model, Catalogue(np.arange(N_ITEMS), None, np.ones(N_ITEMS, dtype=np.int64)))
    stratum = study.make_strata(held_out, None, seed=1)[0]
    record, per_user = study.measure(recommender, stratum, study.Row.parse("encoder,batch_size=7"), None, 0)
    logits = model.score(stratum.held_out.history).double()
    log_probability = torch.log_softmax(logits, dim=-1).numpy()
    target, liked = stratum.held_out.target.toarray() > 0, stratum.liked.toarray() > 0
    likelihood = np.array([row[chosen].mean() for row, chosen in zip(log_probability, target, strict=True)])
    ranked = np.argsort(np.where(liked, -np.inf, log_probability), axis=1)[:, ::-1][:, :20]
    hits = np.take_along_axis(target, ranked, axis=1).sum(axis=1)
    np.testing.assert_allclose(per_user["recall@20"], hits / np.minimum(20, target.sum(axis=1)))
    np.testing.assert_allclose(per_user["log-likelihood"], likelihood, rtol=1e-5)
    assert record["metrics"]["log-likelihood"]["mean"] == pytest.approx(likelihood.mean(), rel=1e-5)
    assert record["n_users"] == stratum.held_out.n_users
    assert per_user["user_id"].tolist() == stratum.held_out.user_ids.tolist()


def test_differences_are_to_the_same_users(study) -> None:
    rng = np.random.default_rng(0)
    baseline = pd.DataFrame(
        {"user_id": np.arange(30), "n_history": 3, "n_target": 2, "ndcg@100": rng.random(30)}
    )
    some = baseline.iloc[5:25].assign(**{"ndcg@100": lambda table: table["ndcg@100"] + 0.25})
    found = study.against(some, baseline, seed=0)["ndcg@100"]
    assert found["difference"] == pytest.approx(0.25)
    assert found["stderr"] == pytest.approx(0.0, abs=1e-12)
    assert found["p_value"] < 0.01


def test_holm_corrects_all_rows_together(study) -> None:
    p_values = [[0.001, 0.2], [0.03, 0.04]]
    records = [
        {"against_encoder": None},
        *({"against_encoder": {str(i): {"p_value": p} for i, p in enumerate(row)}} for row in p_values),
    ]
    study.correct(records)
    found = [entry["p_holm"] for record in records[1:] for entry in record["against_encoder"].values()]
    assert found == holm(np.ravel(p_values)).tolist()


@pytest.mark.parametrize(
    ("diagnostics", "share", "worst"),
    [
        ({"r_hat": [1.01, 1.04, 1.2]}, 2 / 3, 1.2),
        ({"k_hat": [0.5, 0.8, 0.9], "ess": [1.0, 2.0, 3.0]}, 1 / 3, 0.9),
        ({"elbo": [1.0, 2.0, 3.0], "elbo_gain": [-1.0, 2.0, 3.0]}, 2 / 3, -1.0),
        ({"scaled_gradient_norm": [0.05, 0.05, 3.0], "converged": [1.0, 1.0, 0.0]}, 2 / 3, 3.0),
    ],
)
def test_belief(study, diagnostics, share, worst) -> None:
    found = study.belief({name: np.array(values) for name, values in diagnostics.items()})
    assert found["share"] == pytest.approx(share)
    assert found["worst"] == worst


def test_row_is_what_evaluate_takes(study) -> None:
    assert study.Row.parse("mode,likelihood_power=1,towards=0.75").name == "mode, towards=0.75"
    row = study.Row.parse("mean_field,steps=7,likelihood_power=2,predictive=plug_in")
    assert (row.method.steps, row.power, row.predictive) == (7, 2.0, "plug_in")
    assert row.powers(5.0) == [2.0]
    assert isinstance(row.power, float)
    assert study.Row.parse("mode").powers(5.0) == [5.0, 1.0]
    assert study.Row.parse("mode").powers(1.0) == [1.0]
    assert study.Row.parse("maximum_likelihood").powers(5.0) == [None]


def _run(study, monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["study_inference.py", *arguments])
    threads = torch.get_num_threads()
    try:
        return int(study.main())
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=["mult_vae", "ppca"])
def run(tmp_path_factory, request) -> Path:
    folder = tmp_path_factory.mktemp("study") / request.param
    settings = [
        *SMALL,
        "trainer.kl_schedule.cap=0.5",
        "trainer.kl_schedule.epochs=0.0",
        "trainer.monitor=ndcg@10",
    ]
    settings = settings if request.param == "mult_vae" else ["model=ppca", "model.latent_dim=4"]
    metrics = "evaluation.metrics=[ndcg@10]"
    assert command(["train", "dataset=tiny", metrics, f"run={folder}", *settings]) == 0
    return folder


def test_runs_through(study, run, tmp_path, monkeypatch, capsys) -> None:
    output, table = tmp_path / "study.json", tmp_path / "study.md"
    arguments = ["--run", str(run), "--output", str(output), "--markdown", str(table)]
    assert _run(study, monkeypatch, *arguments, "--users", "6", "--chain-users", "3", "--quick") == 0
    report = json.loads(output.read_text())
    rows = {(row["row"], row["likelihood_power"]): row for row in report["rows"]}
    is_vae = run.name == "mult_vae"
    powers = [2.0, 1.0] if is_vae else [1.0]
    assert report["trained_likelihood_power"] == powers[0]
    assert {power for name, power in rows if name == "mode"} == {*powers, 0.5}
    assert ("encoder", None) in rows
    assert len(table.read_text().splitlines()) == 2 + len(rows)
    assert all(row["history"] == "1-5" for row in rows.values())
    for (name, _), row in rows.items():
        assert row["n_users"] == (3 if name.startswith(("hmc", "mala")) else 6)
        assert set(row["metrics"]) == {"ndcg@100", "recall@20"} | ({"log-likelihood"} if is_vae else set())
        assert row["seconds_per_1000_users"] > 0.0
        if name != "encoder":
            assert set(row["against_encoder"]) == set(row["metrics"])
            assert all(0.0 < found["p_holm"] <= 1.0 for found in row["against_encoder"].values())
    printed = capsys.readouterr()
    assert "histories of 1-5 items" in printed.out
    assert "believe it?" in printed.out


def test_same_seed_gives_the_same_figures(study, run, tmp_path, monkeypatch) -> None:
    reports = []
    for name in ("a.json", "b.json"):
        arguments = ["--run", str(run), "--output", str(tmp_path / name), "--seed", "3"]
        assert _run(study, monkeypatch, *arguments, "--rows", "encoder,draws=5", "mode") == 0
        reports.append(json.loads((tmp_path / name).read_text())["rows"])
    for first, second in zip(*reports, strict=True):
        assert first["metrics"] == second["metrics"]
        assert first["against_encoder"] == second["against_encoder"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--run", "x", "--rows", "hcm"], "did you mean 'hmc'?"),
        (["--run", "x", "--rows", "mode,draws=3"], "posterior.draws"),
        (["--run", "x", "--users", "1"], "--users: expected at least 2"),
        (["--run", "x", "--rows", "mode", "--quick"], "--quick"),
        (["--run", "x", "dataset=tiny"], "--run: expected either"),
        ([], "--run: expected either"),
    ],
)
def test_mistakes_are_named(study, arguments, said, tmp_path, monkeypatch, capsys) -> None:
    with pytest.raises(SystemExit) as end:
        _run(study, monkeypatch, "--output", str(tmp_path / "x.json"), *arguments)
    assert end.value.code == 2
    assert said in capsys.readouterr().err


def test_run_that_is_not_there(study, tmp_path, monkeypatch, capsys) -> None:
    output = tmp_path / "x.json"
    assert _run(study, monkeypatch, "--run", str(tmp_path / "none"), "--output", str(output)) == 2
    assert "none" in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.end_to_end
def test_trains_a_run_of_its_own(study, tmp_path, monkeypatch) -> None:
    output = tmp_path / "x.json"
    reached = "trainer.kl_schedule.epochs=0.0"
    settings = ["dataset=tiny", "evaluation.metrics=[ndcg@10]", "trainer.monitor=ndcg@10", reached, *SMALL]
    assert _run(study, monkeypatch, *settings, "--output", str(output), "--rows", "mode") == 0
    report = json.loads(output.read_text())
    assert report["run"] == settings
    assert report["trained_likelihood_power"] == 5.0
