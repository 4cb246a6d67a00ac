"""The verbs that infer tastes, with every way of inferring, on the made-up data set."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import recsys_vae
from recsys_vae.bundled import bundled_path
from recsys_vae.cli.main import main
from recsys_vae.cli.posteriors import _judge
from recsys_vae.exports import read_vectors
from recsys_vae.models import SparseRows
from recsys_vae.posterior import MarkovChains, PosteriorMethod

pytestmark = pytest.mark.filterwarnings("ignore")
POSTERIORS = sorted(path.stem for path in bundled_path("configs", "posterior").glob("*.yaml"))
CHAINS = ("hmc", "chees", "mala", "random_walk_metropolis", "elliptical_slice")
QUICK = {
    "mean_field": ["posterior.steps=5"],
    "importance": ["posterior.draws=30"],
    **{name: ["posterior.draws=16", "posterior.warmup=5", "posterior.thin=1"] for name in CHAINS},
}
METRICS = "evaluation.metrics=[ndcg@10,recall@5]"
SMALL = ["dataset=tiny", METRICS]
VAE = [
    *("model.latent_dim=4", "model.hidden_dims=[8]", "trainer.tensorboard=false", "trainer.monitor=ndcg@10"),
    *("trainer.max_epochs=12", "trainer.batch_size=8", "trainer.optimiser.lr=0.02"),
]


def trained(folder: Path, name: str, *settings: str) -> str:
    assert main(["train", *SMALL, f"run={folder / name}", *settings]) == 0
    return str(folder / name)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Of a VAE, whose posterior is not known, and of the models that this is compared with."""
    folder = tmp_path_factory.mktemp("runs")
    trained(folder, "vae", *VAE, "trainer.kl_schedule.cap=0.5", "trainer.kl_schedule.epochs=0.0")
    trained(folder, "dae", "model=mult_dae", *VAE[:4])
    trained(folder, "ease", "model=ease")
    trained(folder, "ppca", "model=ppca", "model.latent_dim=5")
    return folder


def evaluate(run: Path, output: Path, *settings: str) -> dict[str, Any]:
    assert main(["evaluate", f"run={run}", METRICS, f"output={output}", *settings]) == 0
    record: dict[str, Any] = json.loads(output.read_text(), parse_constant=_no_constant)
    return record


def _no_constant(name: str) -> None:
    pytest.fail(f"{name} is no JSON")


def arrays(path: Path) -> dict[str, np.ndarray]:
    with warnings.catch_warnings(action="ignore"):
        import arviz

        data = arviz.from_netcdf(path)
        return {
            name: values.to_numpy()
            for group in data.groups()
            for name, values in {**data[group].variables}.items()
        }


def n_test_users(run: Path) -> int:
    loaded = recsys_vae.load(run).run
    assert loaded is not None
    held_out = loaded.held_out("test")
    assert held_out is not None
    return held_out.n_users


# evaluate


@pytest.mark.parametrize(
    ("model", "name"),
    [
        *(("vae", name) for name in POSTERIORS),
        *(("ppca", name) for name in ("encoder", "mode", "mean_field", "importance", "hmc")),
    ],
)
def test_evaluate_by_every_posterior(runs, tmp_path, capsys, model, name) -> None:
    record = evaluate(runs / model, tmp_path / "m.json", f"posterior={name}", *QUICK.get(name, []))
    told = capsys.readouterr().out
    assert record["test"]["ndcg@10"]["mean"] > 0.8  # three groups of ten items; chance is far below
    if name == "encoder":
        recorded = json.loads((runs / model / "metrics.json").read_text())
        assert record["test"] == recorded["test"]
        assert "posterior" not in record
        return
    posterior = record["posterior"]
    assert posterior["likelihood_power"] == (2.0 if model == "vae" else 1.0)
    assert f"posterior: {posterior['method']}, likelihood_power" in told
    diagnostics = posterior["diagnostics"]
    if name in CHAINS:
        assert {"r_hat", "ess", "acceptance", "divergences", "invalid"} == set(diagnostics)
        assert "diagnostics of the users" in told
    if name in ("mode", "maximum_likelihood", "laplace"):
        assert diagnostics["gradient_norm"] >= 0.0
        assert diagnostics["evaluations"] >= 1.0


@pytest.mark.parametrize("name", ["mode", "hmc", "importance"])
def test_metrics_do_not_depend_on_the_batches_of_the_evaluation(runs, tmp_path, name) -> None:
    found = [
        evaluate(
            runs / "vae",
            tmp_path / f"{size}.json",
            f"posterior={name}",
            *QUICK.get(name, []),
            f"evaluation.batch_size={size}",
            "posterior.batch_size=5",
        )
        for size in (1, 500)
    ]
    assert found[0]["test"] == found[1]["test"]
    assert found[0]["posterior"] == found[1]["posterior"]


def test_the_same_seed_gives_the_same_numbers_and_another_gives_others(runs, tmp_path) -> None:
    settings = ["posterior=hmc", *QUICK["hmc"]]
    found = [
        evaluate(runs / "vae", tmp_path / f"{number}.json", *settings, f"seed={seed}")
        for number, seed in enumerate((1, 1, 2))
    ]
    assert found[0]["posterior"] == found[1]["posterior"]
    assert found[0]["test"] == found[1]["test"]
    assert found[0]["posterior"] != found[2]["posterior"]


def test_the_power_and_the_predictive_are_used(runs, tmp_path) -> None:
    base = evaluate(runs / "vae", tmp_path / "a.json", "posterior=laplace", "posterior.draws=20")
    strong = evaluate(
        *(runs / "vae", tmp_path / "b.json", "posterior=laplace", "posterior.draws=20"),
        "likelihood_power=40",
    )
    assert strong["posterior"]["likelihood_power"] == 40.0
    assert strong["posterior"]["diagnostics"] != base["posterior"]["diagnostics"]
    # Plugging in the mean of Laplace's Gaussian is plugging in the mode.
    plugged = evaluate(
        *(runs / "vae", tmp_path / "c.json", "posterior=laplace", "posterior.draws=20"),
        "predictive=plug_in",
    )
    mode = evaluate(runs / "vae", tmp_path / "d.json", "posterior=mode", "posterior.batch_size=100")
    assert plugged["test"] == mode["test"]


def test_the_exact_posterior_of_ppca_ranks_as_the_encoder_does(runs, tmp_path) -> None:
    """For a linear model the predictive is that of the mean."""
    encoder = evaluate(runs / "ppca", tmp_path / "a.json")
    for name in ("mode", "laplace"):
        found = evaluate(runs / "ppca", tmp_path / f"{name}.json", f"posterior={name}")
        assert found["test"]["ndcg@10"]["mean"] == pytest.approx(encoder["test"]["ndcg@10"]["mean"], abs=1e-9)


# log p(x)

LIKELIHOOD = ["likelihood_draws=20", "temperatures=20", "annealing_chains=4"]


def test_likelihoods_of_ppca_stand_beside_the_exact_one(runs, tmp_path, capsys) -> None:
    found = evaluate(runs / "ppca", tmp_path / "m.json", "likelihood=annealed", *LIKELIHOOD)["log_likelihood"]
    told = capsys.readouterr().out
    assert f"log p(x) of {n_test_users(runs / 'ppca')} test users, nats (likelihood_power 1)" in told
    exact = found["exact"]["mean"]
    recommender = recsys_vae.load(runs / "ppca")
    held_out = recommender.run.held_out("test")
    expected = recommender.model.log_evidence(SparseRows.from_csr(held_out.history)).double()
    assert exact == pytest.approx(float(expected.mean()), rel=1e-6)
    # The encoder and the Laplace approximation are the posterior: bounds and annealing are exact, but for rounding.
    assert set(found) == {
        *(
            f"{kind}, {proposal}"
            for kind in ("ELBO", "importance weighted, K = 10")
            for proposal in PROPOSALS
        ),
        *(f"importance weighted, K = 20, {proposal}" for proposal in PROPOSALS),
        "annealed, forward",
        "exact",
    }
    for name, value in found.items():
        assert value["mean"] == pytest.approx(exact, abs=1e-3 * abs(exact)), name


PROPOSALS = ("encoder", "laplace")


def test_likelihoods_of_a_vae_rise_with_the_effort(runs, tmp_path) -> None:
    found = evaluate(
        runs / "vae", tmp_path / "m.json", "likelihood=importance", "likelihood_draws=200", "n_users=8"
    )["log_likelihood"]
    means = [
        found[name]["mean"]
        for name in (
            *("ELBO, encoder", "importance weighted, K = 10, encoder"),
            *("importance weighted, K = 100, encoder", "importance weighted, K = 200, encoder"),
        )
    ]
    assert means == sorted(means)


def test_the_sandwich_is_of_simulated_users(runs, tmp_path, capsys) -> None:
    found = evaluate(runs / "vae", tmp_path / "m.json", "likelihood=bidirectional", *LIKELIHOOD, "n_users=6")
    assert "log p(x) of 6 simulated users" in capsys.readouterr().out
    width = found["log_likelihood"]["width of the sandwich"]
    difference = (
        found["log_likelihood"]["annealed, backward"]["mean"]
        - found["log_likelihood"]["annealed, forward"]["mean"]
    )
    assert width["mean"] == pytest.approx(difference, abs=1e-5)
    assert math.isfinite(width["stderr"])


# recommend


def test_recommend_tells_how_sure_it_is(runs, tmp_path, capsys) -> None:
    user = recsys_vae.load(runs / "vae").known_users[0][0]
    arguments = ["recommend", f"run={runs / 'vae'}", f"user={user}", "k=4"]
    assert main([*arguments, "posterior=hmc", *QUICK["hmc"]]) == 0
    assert "score_std" in capsys.readouterr().out
    assert main([*arguments, "posterior=mode"]) == 0
    assert "score_std" not in capsys.readouterr().out
    assert main(arguments) == 0
    plain = capsys.readouterr().out
    assert "score_std" not in plain
    assert main([*arguments, "posterior=encoder"]) == 0
    assert capsys.readouterr().out == plain


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_recommend_to_a_file_of_users_tells_how_sure_it_is(runs, tmp_path, suffix) -> None:
    output = tmp_path / f"out{suffix}"
    histories = file_of_users(runs / "vae", tmp_path / "in.parquet")
    arguments = [f"run={runs / 'vae'}", f"input={histories}", f"output={output}", "k=3"]
    assert main(["recommend", *arguments, "posterior=hmc", *QUICK["hmc"]]) == 0
    table = pd.read_csv(output) if suffix == ".csv" else pd.read_parquet(output)
    assert {"user_id", "rank", "item_id", "score", "score_std", "title"} == set(table.columns)
    assert list(table["user_id"]) == ["a"] * 3 + ["b"] * 3 + ["nobody"] * 3
    known = table["user_id"] != "nobody"
    assert (table.loc[known, "score_std"] > 0).all()
    assert table.loc[~known, "score_std"].isna().all()  # the popularity ranking has no draws
    assert main(["recommend", *arguments, "posterior=mode"]) == 0
    table = pd.read_csv(output) if suffix == ".csv" else pd.read_parquet(output)
    assert "score_std" not in table.columns


def file_of_users(run: Path, path: Path) -> Path:
    items = recsys_vae.load(run).catalogue.item_ids
    rows = [("a", item) for item in items[:4]] + [("b", item) for item in items[5:7]]
    pd.DataFrame([*rows, ("nobody", "no such item")], columns=["user_id", "item_id"]).astype(str).to_parquet(
        path
    )
    return path


# export


@pytest.mark.parametrize("model", ["vae", "ppca"])
@pytest.mark.parametrize("name", ["mode", "hmc", "importance"])
def test_export_tells_where_the_users_are(runs, tmp_path, name, model) -> None:
    settings = [f"posterior={name}", *QUICK.get(name, []), f"output={tmp_path / 'users.npz'}"]
    assert main(["export", f"run={runs / model}", *settings]) == 0
    ids, vectors = read_vectors(tmp_path / "users.npz")
    latent_dim = 4 if model == "vae" else 5
    assert vectors["mean"].shape == vectors["std"].shape == (len(ids), latent_dim)
    assert (vectors["std"] == 0).all() if name == "mode" else (vectors["std"] > 0).all()
    if model == "ppca" and name == "mode":  # the mode of a Gaussian is its mean
        assert main(["export", f"run={runs / model}", f"output={tmp_path / 'encoder.npz'}"]) == 0
        exact = read_vectors(tmp_path / "encoder.npz")[1]
        np.testing.assert_allclose(vectors["mean"], exact["mean"], atol=1e-6)


def test_what_other_spaces_have_no_posterior_for(runs, tmp_path, capsys) -> None:
    for setting in ("what=items", "space=retrieval"):
        output = tmp_path / "x.npz"
        assert main(["export", f"run={runs / 'vae'}", "posterior=mode", setting, f"output={output}"]) == 2
        assert "posterior: expected encoder but for users' latent vectors" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# PPCA


def test_inner_products_of_ppcas_vectors_are_its_scores(runs, tmp_path) -> None:
    for what in ("users", "items"):
        arguments = [f"what={what}", "space=retrieval", f"output={tmp_path / what}.parquet"]
        assert main(["export", f"run={runs / 'ppca'}", *arguments]) == 0
    user_ids, users = read_vectors(tmp_path / "users.parquet")
    item_ids, items = read_vectors(tmp_path / "items.parquet")
    recommender = recsys_vae.load(runs / "ppca")
    for row in range(0, len(user_ids), 17):
        scores = items["vector"] @ users["vector"][row]
        scores[recommender.history_of_user(user_ids[row]).indices] = -np.inf
        best = item_ids[np.argsort(-scores, kind="stable")[:5]]
        assert list(recommender.recommend_user(user_ids[row], k=5)["item_id"]) == list(best)


# sample

SAMPLE = ["sampler.draws=16", "sampler.warmup=5", "sampler.batch_size=3", "sampler.thin=1", "n_users=7"]


@pytest.mark.parametrize(("model", "name"), [*(("vae", name) for name in CHAINS), ("ppca", "hmc")])
def test_sample_writes_what_arviz_reads(runs, tmp_path, capsys, model, name) -> None:
    output = tmp_path / "draws.nc"
    arguments = [f"run={runs / model}", f"sampler={name}", *SAMPLE, f"output={output}"]
    assert main(["sample", *arguments]) == 0
    told = capsys.readouterr().out
    assert "7 test users, 4 chains, 4 draws each, likelihood_power" in told
    assert "r_hat" in told
    assert list(tmp_path.iterdir()) == [output]
    found = arrays(output)
    held_out = recsys_vae.load(runs / model).run.held_out("test")
    assert found["user"].tolist() == held_out.user_ids[:7].tolist()
    latent_dim = 4 if model == "vae" else 5
    assert found["z"].shape == (4, 4, 7, latent_dim)
    assert np.isfinite(found["z"]).all()
    np.testing.assert_allclose(found["mean"], found["z"].mean(axis=(0, 1)), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        found["std"], found["z"].reshape(16, 7, latent_dim).std(axis=0, ddof=1), rtol=1e-3, atol=1e-4
    )


def test_sample_without_output_prints_only(runs, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["sample", f"run={runs / 'vae'}", *SAMPLE]) == 0
    assert "HMC, worst coordinate of each user" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_sample_without_draws_keeps_moments_and_diagnostics(runs, tmp_path) -> None:
    both = {}
    for keep in ("true", "false"):
        output = tmp_path / f"{keep}.nc"
        assert main(["sample", f"run={runs / 'vae'}", *SAMPLE, f"output={output}", f"keep_draws={keep}"]) == 0
        both[keep] = arrays(output)
    assert "z" not in both["false"]
    np.testing.assert_allclose(both["false"]["mean"], both["true"]["mean"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(both["false"]["std"], both["true"]["std"], rtol=1e-4, atol=1e-5)


def test_sample_of_simulated_users_and_of_a_file(runs, tmp_path, capsys) -> None:
    output = tmp_path / "draws.nc"
    simulated = ["users=simulated", "n_users=30", *SAMPLE[:4], f"output={output}"]
    assert main(["sample", f"run={runs / 'vae'}", *simulated]) == 0
    assert "30 simulated users" in capsys.readouterr().out
    assert arrays(output)["user"].tolist() == list(range(30))
    histories = file_of_users(runs / "vae", tmp_path / "in.parquet")
    assert main(["sample", f"run={runs / 'vae'}", *SAMPLE, f"input={histories}", f"output={output}"]) == 0
    assert "3 input users" in capsys.readouterr().out
    assert arrays(output)["user"].tolist() == ["a", "b", "nobody"]


def test_an_interrupted_sample_is_carried_on(runs, tmp_path, monkeypatch) -> None:
    """In the third of three batches, by what a Ctrl-C raises."""
    arguments = ["sample", f"run={runs / 'vae'}", *SAMPLE]
    assert main([*arguments, f"output={tmp_path / 'whole.nc'}"]) == 0
    original, calls = MarkovChains.run, []

    def stop_at_the_third(self, *given, **named):
        calls.append(named["seed"])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, *given, **named)

    monkeypatch.setattr(MarkovChains, "run", stop_at_the_third)
    again = [*arguments, f"output={tmp_path / 'again.nc'}"]
    assert main(again) == 130
    assert not (tmp_path / "again.nc").exists()
    assert main(again) == 2
    assert main([*again, "resume=true", "seed=1"]) == 2
    assert main([*again, "resume=true", "sampler.warmup=6"]) == 2
    assert main([*again, "resume=true", "sampler=mala"]) == 2
    assert main([*again, "resume=true", "n_users=6"]) == 2
    assert len(calls) == 3
    assert main([*again, "resume=true"]) == 0
    assert len(calls) == 4
    assert calls[3] == calls[2]
    whole, resumed = arrays(tmp_path / "whole.nc"), arrays(tmp_path / "again.nc")
    assert whole.keys() == resumed.keys()
    for name in whole:
        np.testing.assert_array_equal(whole[name], resumed[name])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.nc", "whole.nc"]


# What a shell starts in the background ignores SIGINT, and so do the processes that it starts.
INTERRUPTIBLE = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from recsys_vae.cli.main import main; sys.exit(main(sys.argv[1:]))"
)


@pytest.mark.end_to_end
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for one process here")
def test_ctrl_c_and_resume_give_the_uninterrupted_file(runs, tmp_path) -> None:
    settings = [
        *(f"run={runs / 'vae'}", "threads=1", "n_users=12", "sampler.batch_size=1"),
        *("sampler.draws=80", "sampler.warmup=40"),
    ]
    assert main(["sample", *settings, f"output={tmp_path / 'whole.nc'}"]) == 0
    output, partial = tmp_path / "again.nc", tmp_path / "again.nc.partial"
    command = [sys.executable, "-c", INTERRUPTIBLE, "sample", *settings, f"output={output}"]
    with (tmp_path / "output.txt").open("w") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=stream, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        try:
            give_up = time.monotonic() + 120
            while not list(partial.glob("batch-*.safetensors")):
                assert process.poll() is None, (tmp_path / "output.txt").read_text()
                assert time.monotonic() < give_up, (tmp_path / "output.txt").read_text()
                time.sleep(0.001)
            process.send_signal(signal.SIGINT)
            process.wait(timeout=60)
        finally:
            process.kill()
            process.wait()
    told = (tmp_path / "output.txt").read_text()
    assert process.returncode == 130, told
    assert told.splitlines()[-1] == "recsys-vae: interrupted"
    assert "Traceback" not in told
    assert not output.exists()
    n_kept = len(list(partial.glob("batch-*.safetensors")))
    assert 1 <= n_kept < 12
    assert main(["sample", *settings, f"output={output}", "resume=true"]) == 0
    assert not partial.exists()
    whole, resumed = arrays(tmp_path / "whole.nc"), arrays(output)
    for name in whole:
        np.testing.assert_array_equal(whole[name], resumed[name])


# What is refused


READERS = {
    "evaluate": [],
    "recommend": ["items=[1]", "k=3"],
    "export": ["output=x.npz"],
    "sample": ["output=x.nc"],
}


@pytest.fixture
def refused(tmp_path, monkeypatch, capfd) -> Any:
    """Exit code 2, one line on stderr, nothing written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def check(arguments: list[str], *said: str) -> None:
        capfd.readouterr()
        assert main(arguments) == 2
        told = capfd.readouterr().err
        assert told.count("\n") == 1, told
        assert told.startswith("recsys-vae: ")
        for text in said:
            assert text in told
        assert list(tmp_path.iterdir()) == []

    return check


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["likelihood_power=-1"], "likelihood_power: expected a positive number, came -1"),
        (["likelihood_power=0"], "likelihood_power: expected a positive number, came 0"),
        (["likelihood_power=nan"], "likelihood_power: expected a positive number, came nan"),
        (["likelihood_power=inf"], "likelihood_power: expected a positive number, came inf"),
        (["likelihood_power=true"], "likelihood_power: expected a positive number, came True"),
        (["likelihood_power=much"], "likelihood_power: expected a positive number, came 'much'"),
        (["posterior=hmmc"], "posterior: came 'hmmc'"),
        (["posterior=hmc", "posterior.draws=2"], "posterior.draws: expected a whole number of at least 16"),
        (["posterior=hmc", "posterior.draws=some"], "posterior.draws: expected a whole number, came 'some'"),
        (["posterior=hmc", "posterior.kernel.n_leapfrog=0.0"], "n_leapfrog: expected"),
        (["posterior=hmc", "posterior.kernel.nleapfrog=3"], "posterior.kernel.nleapfrog: unknown key"),
        (["posterior=hmc", "posterior.chains=0"], "posterior.chains: expected a whole number of at least 1"),
        (["posterior=hmc", "posterior.draws=null"], "posterior.draws: expected a whole number, came None"),
        (["posterior=hmc", "posterior.kernel.target_acceptance=1.5"], "target_acceptance: expected"),
        (["seed=-1"], "seed: expected a whole number from 0 to 4294967295, came -1"),
        (["seed=maybe"], "seed: expected a whole number, came 'maybe'"),
    ],
)
def test_settings_that_cannot_be(refused, runs, settings, said) -> None:
    refused(["evaluate", f"run={runs / 'vae'}", *settings], said)


@pytest.mark.parametrize("verb", [verb for verb in READERS if verb != "evaluate"])
def test_every_verb_refuses_them(refused, runs, verb) -> None:
    for settings, said in (
        (["likelihood_power=-1"], "likelihood_power: expected a positive number, came -1"),
        (
            ["posterior=hmc", "posterior.draws=2"],
            ("sampler" if verb == "sample" else "posterior")
            + ".draws: expected a whole number of at least 16",
        ),
        (["posterior=hmc", "posterior.kernel.n_leapfrog=0.0"], "n_leapfrog: expected"),
        (["seed=-1"], "seed: expected a whole number from 0"),
    ):
        refused([verb, f"run={runs / 'vae'}", *READERS[verb], *settings], said)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["posterior=mode", "posterior.tolerance=0.0"], "posterior.tolerance: expected a positive number"),
        (["posterior=mode", "posterior.draws=3"], "posterior.draws: "),
        (["posterior=importance", "posterior.proposal=prior"], "posterior.proposal: expected encoder or"),
        (["predictive=both"], "predictive: expected average or plug_in, came 'both'"),
        (["likelihood=foo"], "likelihood: expected importance, annealed or bidirectional, came 'foo'"),
        (["likelihood=importance", "likelihood_draws=0"], "likelihood_draws: expected a whole number"),
        (["likelihood=annealed", "temperatures=0"], "temperatures: expected a whole number of at least 1"),
        (["likelihood=annealed", "annealing_chains=-1"], "annealing_chains: expected a whole number"),
        (["likelihood=importance", "n_users=0"], "n_users: expected a whole number of at least 1, came 0"),
    ],
)
def test_what_evaluate_refuses(refused, runs, settings, said) -> None:
    refused(["evaluate", f"run={runs / 'vae'}", *settings], said)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["sampler=nuts"], "came 'nuts'"),
        (["sampler=mode"], "sampler: expected one that runs Markov chains, such as hmc, came Mode"),
        (["sampler=encoder"], "sampler: expected one that runs Markov chains, such as hmc, came Encoder"),
        (["users=train"], "users: expected test, validation or simulated, came 'train'"),
        (["n_users=0"], "n_users: expected a whole number of at least 1, came 0"),
        (["n_users=1000"], "n_users: expected at most "),
        (["output=x.csv"], "output: expected a name ending in .nc"),
        (["output=none/x.nc"], "output: expected an existing folder"),
        (["resume=true"], "resume: expected output=FILE.nc, whose interrupted run it takes up, came none"),
        (
            ["resume=true", "output=x.nc", "n_users=5"],
            "resume: nothing to resume, x.nc.partial holds no interrupted run",
        ),
        (["input=none.csv"], "input: expected a file of histories, none.csv does not exist"),
        (["sampler=hmc", "posterior=hmc"], "sampler: expected once, came twice"),
        (["sampler=hmmc"], "sampler: came 'hmmc'"),
    ],
)
def test_what_sample_refuses(refused, runs, settings, said) -> None:
    refused(["sample", f"run={runs / 'vae'}", *settings], said)


@pytest.mark.parametrize("model", ["ease", "dae"])
@pytest.mark.parametrize("name", ["mode", "mean_field", "hmc"])
def test_a_model_without_a_posterior(refused, runs, model, name) -> None:
    run = f"run={runs / model}"
    kind = {"ease": "EASE", "dae": "MultDAE"}[model]
    said = f"posterior: expected a model with a posterior over tastes, such as mult_vae, came {kind}"
    refused(["evaluate", run, METRICS, f"posterior={name}"], said)
    refused(["recommend", run, "items=[1]", "k=3", f"posterior={name}"], said)
    if model == "dae":
        refused(["export", run, "output=x.npz", f"posterior={name}"], said)


def test_a_model_without_a_posterior_has_no_likelihood_and_nothing_to_sample(refused, runs) -> None:
    for model in ("ease", "dae"):
        refused(
            ["sample", f"run={runs / model}", "output=x.nc"], "sampler: expected a model with a posterior"
        )
        refused(
            ["evaluate", f"run={runs / model}", "posterior=encoder", "posterior.draws=9", METRICS],
            "posterior: expected a model with a posterior",
        )
        assert main(["recommend", f"run={runs / model}", "items=[1]", "k=3", "posterior=encoder"]) == 0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["ease", "evaluate", "likelihood=importance"], "posterior: expected a model with a posterior"),
        (["dae", "evaluate", "likelihood=bidirectional"], "posterior: expected a model with a posterior"),
        (
            ["ppca", "evaluate", "likelihood=bidirectional"],
            "likelihood: bidirectional simulates a VAE's users",
        ),
        (["ppca", "sample", "users=simulated"], "users: simulated wants a VAE, came PPCA"),
    ],
)
def test_what_a_model_cannot_do(runs, tmp_path, capfd, settings, said) -> None:
    model, verb, *rest = settings
    metrics = [METRICS] if verb == "evaluate" else []
    suffix = "json" if verb == "evaluate" else "nc"
    arguments = [f"run={runs / model}", *metrics, *rest, f"output={tmp_path / 'x'}.{suffix}"]
    capfd.readouterr()
    assert main([verb, *arguments]) == 2
    told = capfd.readouterr().err
    assert told.count("\n") == 1
    assert said in told
    assert list(tmp_path.iterdir()) == []


# Configurations and help


@pytest.mark.parametrize("verb", READERS)
def test_help_shows_how_tastes_are_inferred(capsys, verb) -> None:
    assert main([verb, "--help"]) == 0
    told = capsys.readouterr().out
    default = "hmc" if verb == "sample" else "encoder"
    assert f"# posterior={default}, one of {', '.join(POSTERIORS)}" in told
    assert "likelihood_power: null  # which posterior" in told
    assert "  batch_size: " in told
    assert main([verb, "--help", "posterior=mala"]) == 0
    assert "    target_acceptance: 0.574" in capsys.readouterr().out


@pytest.mark.parametrize("name", POSTERIORS)
def test_configurations_are_the_defaults_of_their_classes(name) -> None:
    """But for chains, where they differ by kernel; every setting is there, and none is unknown."""
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    config = OmegaConf.load(bundled_path("configs", "posterior", f"{name}.yaml"))
    method = instantiate(config, _convert_="all")
    assert isinstance(method, PosteriorMethod)
    assert set(config) - {"_target_"} <= set(vars(method))
    assert set(vars(method)) - set(config) <= {
        "towards"
    }  # of maximum likelihood nobody wants part of the way
    if not isinstance(method, MarkovChains) or name == "hmc":
        assert method == type(method)()


def test_a_diagnostic_that_is_no_number_counts_as_bad() -> None:
    said, worst = _judge("r_hat", np.array([np.nan, 1.0, 1.2]))
    assert said.startswith("2 of 3 above")
    assert np.isnan(worst)
    assert _judge("bfmi", np.array([0.1, 1.8])) == ("", 0.1)
