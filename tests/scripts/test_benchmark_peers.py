"""The benchmark against peers, with a made-up peer in the place of the real ones: no environment is made here."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import benchmark_peers as benchmark
import numpy as np
import pandas as pd
import peer_environment as environment
import peer_protocol as protocol
import peer_ranking as ranking
import peer_results as results
import peer_table as table
import pytest
import torch
from made_up_histories import random_histories
from scipy.sparse import csr_array

from recsys_vae.errors import UserError
from recsys_vae.full_ranking import evaluate_full_ranking
from recsys_vae.interactions import HeldOut
from recsys_vae.ranking import mask_seen, top_k

SCRIPTS = Path(__file__).parents[2] / "scripts"

# Scores items by their training count times a setting, and leaves a line in a file whenever it is run.
FAKE = f"""
import sys
sys.path.insert(0, {str(SCRIPTS)!r})
import numpy as np
from pathlib import Path
from peer_protocol import Fitted, run

def fit(task):
    with Path(__file__).with_name("runs.txt").open("a") as file:
        print(task.seed, task.settings, file=file)
    if task.settings["sign"] == 0 or (task.settings["sign"] == 7 and task.seed == 2):
        raise SystemExit("this setting does not work")
    counts = task.settings["sign"] * task.train.sum(axis=0)
    return Fitted(lambda history: np.tile(counts, (history.shape[0], 1)), 0.5)

sys.exit(run(fit, ("numpy",)))
"""
CATALOGUE = """
peers:
  counts: {title: 'Counts {numpy}', script: fake_peer.py, trials: [{sign: -1}, {sign: 1}]}
  broken: {title: Broken, script: fake_peer.py, trials: [{sign: 0}]}
  late: {title: Late, script: fake_peer.py, trials: [{sign: 7}]}
"""


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    (tmp_path / "fake_peer.py").write_text(FAKE)
    path = tmp_path / "catalogue.yaml"
    path.write_text(CATALOGUE)
    return path


def _run(catalogue: Path, *arguments: str, dataset: str = "tiny", overrides: Sequence[str] = ()) -> int:
    folder = catalogue.parent
    return int(
        benchmark.main(
            [
                *(
                    f"dataset={dataset}",
                    *overrides,
                    "--folder",
                    str(folder / "environments"),
                    "--catalogue",
                    str(catalogue),
                ),
                *("--output", str(folder / "peers.json"), "--markdown", str(folder / "peers.md")),
                *("--seeds", "1", "--threads", "1", *arguments),
            ]
        )
    )


@pytest.mark.end_to_end
def test_a_peer_and_a_model_of_ours_in_one_table(catalogue: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("--peers", "counts", "--models", "popularity", "--trials", "2")
    assert _run(catalogue, *asked) == 0
    report = json.loads((catalogue.parent / "peers.json").read_text())
    (peer,), (ours,) = (
        [row for row in report["table"] if row["system"] == title]
        for title in (f"Counts {np.__version__}", "**popularity**")
    )
    # Both rank by training counts, ties by the order of items: the same figures by two ways.
    assert peer["metrics"] == ours["metrics"]
    assert peer["tests"]["ndcg@100"] == {"difference": 0.0, "stderr": 0.0, "p_holm": 1.0}
    assert peer["settings"] == [{"sign": 1}]
    assert peer["seconds"]["to_best"] == 0.5
    assert peer["peak_mib"] > 10
    worse, better = report["trials"]["counts"]["1"]
    assert worse["validation"] < better["validation"]
    per_user = [
        pd.read_parquet(catalogue.parent / "peers.json.per_user" / trial["per_user"])
        for trial in (better, report["trials"]["popularity"]["1"][0])
    ]
    shared = ["user_id", *ranking.METRICS]
    pd.testing.assert_frame_equal(per_user[0][shared], per_user[1][shared])
    text = (catalogue.parent / "peers.md").read_text()
    assert text.splitlines()[2].count("|") == text.splitlines()[0].count("|")
    assert f"Counts {np.__version__}" in text

    # What is there is not run again, with fewer trials neither; another dataset is refused.
    runs = (catalogue.parent / "runs.txt").read_text()
    assert len(runs.splitlines()) == 2
    assert _run(catalogue, *asked[:-1], "1", "--against", "popularity") == 0
    assert (catalogue.parent / "runs.txt").read_text() == runs
    assert json.loads((catalogue.parent / "peers.json").read_text())["table"][1]["settings"] == [{"sign": -1}]
    capsys.readouterr()
    assert _run(catalogue, *asked, dataset="ml-latest-small") == 2
    assert "--output" in capsys.readouterr().err
    plot = importlib.import_module("plot_peers")
    assert plot.main([str(catalogue.parent / "peers.json"), str(catalogue.parent / "peers.png")]) == 0
    assert (catalogue.parent / "peers.png").read_bytes().startswith(b"\x89PNG")


def test_figures_of_other_data_are_refused(catalogue: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trial = {"settings": {"sign": -1}, "split_sha256": "of another day"}
    record = {"overrides": ["dataset=tiny"], "trials": {"counts": {"1": [trial]}}}
    (catalogue.parent / "peers.json").write_text(json.dumps(record))
    assert _run(catalogue, "--peers", "counts", "--models") == 2
    assert "another split of seed 1" in capsys.readouterr().err


def test_figures_of_other_defaults_are_refused(catalogue: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("--peers", "counts", "--models", "--against", "counts")
    assert _run(catalogue, *asked) == 0
    path = catalogue.parent / "peers.json"
    record = json.loads(path.read_text())
    record["trials"]["counts"]["1"][0]["configuration_sha256"] = "of another release"
    path.write_text(json.dumps(record))
    capsys.readouterr()
    assert _run(catalogue, *asked) == 2
    assert "counts" in (said := capsys.readouterr().err)
    assert "with other defaults; expected a new file" in said


def test_the_configuration_of_a_trial_has_the_defaults_in_it() -> None:
    trial = importlib.import_module("peer_trial")
    ours = trial.System("ease", "ease", ([],))
    digests = [
        trial.configuration_sha256(ours, settings, ["dataset=tiny"])
        for settings in ([], ["model.l2=500.0"], ["model.l2=7"])
    ]
    assert digests[0] == digests[1] != digests[2]


def test_figures_by_other_code_are_kept_with_a_warning(
    catalogue: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("--peers", "counts", "--models", "--against", "counts")
    assert _run(catalogue, *asked) == 0
    capsys.readouterr()
    assert _run(catalogue, *asked) == 0
    assert "warning" not in capsys.readouterr().err
    with (catalogue.parent / "fake_peer.py").open("a") as file:
        file.write("# other code\n")
    assert _run(catalogue, *asked) == 0
    assert "counts by other code or releases" in capsys.readouterr().err
    assert len((catalogue.parent / "runs.txt").read_text().splitlines()) == 2


def test_what_every_user_has_must_be_there(catalogue: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("--peers", "counts", "late", "--models", "--against", "counts")
    assert _run(catalogue, *asked[:2], *asked[3:]) == 0
    (catalogue.parent / "peers.json.per_user" / "counts-seed1-trial1.parquet").unlink()
    assert _run(catalogue, *asked) == 2
    assert "counts-seed1-trial1.parquet" in capsys.readouterr().err
    assert "7" not in (catalogue.parent / "runs.txt").read_text()


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["threads=1"], "threads"),
        (["seed=3"], "seed"),
        (["trainer.max_epochs=x"], "trainer.max_epochs"),
        (["evaluation.metrics=[ndcg@10]"], "evaluation.metrics"),
    ],
)
def test_settings_that_cannot_run_are_refused_before_anything_runs(
    catalogue: Path, capsys: pytest.CaptureFixture[str], overrides: list[str], named: str
) -> None:
    asked = ("--peers", "counts", "--models", "mult_vae", "--against", "counts")
    assert _run(catalogue, *asked, overrides=overrides) == 2
    assert named in capsys.readouterr().err
    assert not (catalogue.parent / "runs.txt").exists()


def test_an_output_in_use_is_refused(catalogue: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = catalogue.parent / "peers.json"
    with results.Results(path, ["dataset=tiny"]):
        assert _run(catalogue, "--peers", "counts", "--models") == 2
        assert "held by another process" in capsys.readouterr().err
    assert _run(catalogue, "--peers", "counts", "--models") == 0
    assert not list(catalogue.parent.glob(".*.lock"))


def test_an_output_in_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--output"):
        results.Results(tmp_path / "nowhere" / "peers.json", [])


@pytest.mark.end_to_end
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_benchmark_that_is_stopped_takes_its_trials_along(catalogue: Path, number: signal.Signals) -> None:
    folder = catalogue.parent
    script = folder / "fake_peer.py"
    waiting = (
        "import os, time\nPath(__file__).with_name('pid.txt').write_text(str(os.getpid()))\ntime.sleep(60)\n"
    )
    script.write_text(script.read_text().replace("\ndef fit", f"\n{waiting}\ndef fit"))
    command = [
        sys.executable,
        str(SCRIPTS / "benchmark_peers.py"),
        "dataset=tiny",
        "--seeds",
        "1",
        "--jobs",
        "2",
    ]
    command += [
        "--folder",
        str(folder),
        "--catalogue",
        str(catalogue),
        "--output",
        str(folder / "peers.json"),
    ]
    # As a shell does with what it sends behind: the interrupt switched off.
    process = subprocess.Popen(
        [*command, "--peers", "counts", "--models"],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    deadline = time.monotonic() + 60
    while not (folder / "pid.txt").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.2)
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "the same command goes on" in said
    assert "Traceback" not in said
    peer = int((folder / "pid.txt").read_text())
    while True:  # until whoever inherits it has noticed its end
        try:
            os.kill(peer, 0)
        except ProcessLookupError:
            break
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_peer_that_fails_is_left_out(catalogue: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(catalogue, "--peers", "counts", "broken", "--models", "--against", "counts") == 1
    printed = capsys.readouterr()
    assert "this setting does not work" in printed.err
    assert "Counts" in printed.out
    assert "Broken" not in printed.out


def test_a_peer_that_fails_on_a_later_split_is_not_run_on_those_after_it(catalogue: Path) -> None:
    asked = ("--peers", "counts", "late", "--models", "--against", "counts", "--seeds", "1", "2", "3")
    assert _run(catalogue, *asked, "--trials", "1", "--tune", "every") == 1
    runs = (catalogue.parent / "runs.txt").read_text().splitlines()
    assert [line for line in runs if "7" in line] == ["1 {'sign': 7}", "2 {'sign': 7}"]
    table = json.loads((catalogue.parent / "peers.json").read_text())["table"]
    assert [row["system"] for row in table] == [f"Counts {np.__version__}"]


def test_other_defaults_of_any_system_are_refused_before_anything_runs(catalogue: Path) -> None:
    assert _run(catalogue, "--peers", "late", "--models", "--against", "late") == 0
    path = catalogue.parent / "peers.json"
    record = json.loads(path.read_text())
    record["trials"]["late"]["1"][0]["configuration_sha256"] = "of another release"
    path.write_text(json.dumps(record))
    assert _run(catalogue, "--peers", "counts", "late", "--models", "--against", "counts") == 2
    assert len((catalogue.parent / "runs.txt").read_text().splitlines()) == 1


def test_what_is_named_twice_runs_once(catalogue: Path) -> None:
    asked = ("--peers", "counts", "counts", "--models", "--seeds", "1", "1", "--trials", "1")
    assert _run(catalogue, *asked, "--jobs", "2") == 0
    assert len((catalogue.parent / "runs.txt").read_text().splitlines()) == 1
    assert _run(catalogue, *asked, "--jobs", "1") == 0
    assert len((catalogue.parent / "runs.txt").read_text().splitlines()) == 1


def test_tuning_on_the_first_split_only(catalogue: Path) -> None:
    asked = ("--peers", "counts", "--models", "--trials", "2", "--tune", "first", "--seeds", "1", "2")
    assert _run(catalogue, *asked) == 0
    report = json.loads((catalogue.parent / "peers.json").read_text())
    assert [trial["settings"] for trial in report["trials"]["counts"]["2"]] == [{"sign": 1}]
    assert report["table"][0]["splits"] == 2


@pytest.mark.end_to_end
def test_trials_side_by_side_are_those_of_one_after_the_other(catalogue: Path) -> None:
    asked = ("--peers", "counts", "broken", "--models", "popularity", "ease", "--against", "counts")
    tuned = ("--trials", "2", "--tune", "first", "--seeds", "1", "2", "3")
    path = catalogue.parent / "peers.json"
    tables = []
    for jobs in ("1", "4"):
        path.unlink(missing_ok=True)
        assert _run(catalogue, *asked, *tuned, "--jobs", jobs) == 1
        assert ("4 trials side by side" in (catalogue.parent / "peers.md").read_text()) == (jobs == "4")
        report = json.loads(path.read_text())
        tables.append(
            [(row["system"], row["metrics"], row["tests"], row["settings"]) for row in report["table"]]
        )
    assert len(tables[0]) == 3
    assert tables[0] == tables[1]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--peers", "nobody"], "--peers"),
        (["--models", "nothing"], "--models"),
        (["--peers", "counts", "--models", "ease", "--against", "popularity"], "--against"),
    ],
)
def test_unknown_names_are_refused(
    catalogue: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], named: str
) -> None:
    assert _run(catalogue, *arguments) == 2
    assert named in capsys.readouterr().err


def test_ranks_are_those_of_our_own_code() -> None:
    rng = np.random.default_rng(1)
    histories = random_histories(40, 130, density=0.3)
    for levels in (3, 10**6):
        scores = rng.integers(levels, size=(40, 130)).astype(np.float32)
        ours = top_k(mask_seen(torch.from_numpy(scores.copy()), histories), 100).items.numpy()
        np.testing.assert_array_equal(protocol.rank(scores, histories), ours)
    short = protocol.rank(scores[:, :20], histories[:, :20])
    assert short.shape == (40, 100)
    assert ((short >= 0).sum(axis=1) == 20 - np.diff(histories[:, :20].indptr)).all()
    with pytest.raises(ValueError, match="NaN"):
        protocol.rank(np.full((40, 130), np.nan), histories)


def _held_out() -> HeldOut:
    both = random_histories(30, 130, density=0.3)
    target = both.copy()
    target.data = (np.random.default_rng(2).random(both.nnz) < 0.4).astype(np.float32)
    history = both - target
    for part in (history, target):
        part.eliminate_zeros()
    return HeldOut(np.arange(30), csr_array(history), csr_array(target))


def test_a_ranking_is_judged_as_our_scores_are(tmp_path: Path) -> None:
    held_out, counts = _held_out(), np.arange(130)
    scores = np.random.default_rng(3).random((30, 130)).astype(np.float32)
    np.save(tmp_path / "test.npy", protocol.rank(scores, held_out.history))
    judged = ranking.judge(tmp_path / "test.npy", held_out, counts, "peer")
    ours = evaluate_full_ranking(lambda _: torch.from_numpy(scores.copy()), held_out, ranking.METRICS, counts)
    pd.testing.assert_frame_equal(judged.per_user, ours.per_user)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda ranked, seen: ranked[:-1], "shape"),
        (lambda ranked, seen: ranked.astype(np.float64), "float64"),
        (lambda ranked, seen: np.where(ranked == ranked[0, 0], 130, ranked), "130"),
        (lambda ranked, seen: np.where(np.arange(100) == 0, -1, ranked), "after the last"),
        (lambda ranked, seen: np.where(np.arange(100) == 1, ranked[:, :1], ranked), "once"),
        (lambda ranked, seen: np.where(np.arange(100) == 0, seen[:, None], ranked), "history"),
    ],
)
def test_what_is_no_ranking_is_refused(tmp_path: Path, spoil, message: str) -> None:
    held_out = _held_out()
    ranked = protocol.rank(np.random.default_rng(3).random((30, 130)), held_out.history)
    seen = held_out.history.indices[held_out.history.indptr[:-1]]
    full = ranked[:, :60]  # everyone has more than 60 items left
    assert (full >= 0).all()
    ranked = np.pad(full, ((0, 0), (0, 40)), constant_values=-1)
    np.save(tmp_path / "test.npy", spoil(ranked, seen))
    with pytest.raises(UserError, match=f"peer: test.npy: .*{message}"):
        ranking.judge(tmp_path / "test.npy", held_out, np.arange(130), "peer")


def test_training_stops_after_its_patience_and_keeps_the_best_epoch() -> None:
    held_out = _held_out()
    task = protocol.Task(
        csr_array(np.ones((2, 130))), {"validation": held_out.history}, held_out.target, {}, 1, 1, None
    )
    best = protocol.BestEpoch(task, patience=2)
    good = held_out.target.toarray()
    went_on = []
    for epoch, quality in enumerate([0.0, 1.0, 0.3, 0.6, 0.3]):
        scores = quality * good + 0.6 * np.random.default_rng(epoch).random(good.shape)
        went_on.append(best.update(2.0, lambda _, scores=scores: scores, lambda epoch=epoch: epoch))
    assert went_on == [True, True, True, False, False]
    assert best.best_state == 1
    fitted = best.fitted(lambda history: good)
    assert (fitted.best_epoch, fitted.seconds_to_best) == (2, 4.0)
    assert fitted.curve[1] == max(fitted.curve)
    assert protocol.validation_ndcg(lambda _: good, task) == 1.0


FAKE_RECVAE = """
import torch

class VAE(torch.nn.Module):
    calls = []

    def __init__(self, hidden_dim, latent_dim, input_dim):
        super().__init__()
        self.encoder = torch.nn.Linear(input_dim, latent_dim, bias=False)
        self.decoder = torch.nn.Linear(latent_dim, input_dim, bias=False)

    def update_prior(self):
        self.calls.append("prior")

    def forward(self, ratings, beta=None, gamma=1, dropout_rate=0.5, calculate_loss=True):
        scores = self.decoder(self.encoder(ratings / ratings.norm(dim=1, keepdim=True)))
        if not calculate_loss:
            return scores
        self.calls.append((len(ratings), gamma, dropout_rate, self.training))
        return None, -(torch.log_softmax(scores, -1) * ratings).sum(-1).mean()
"""


def test_the_reference_recvae_alternates_as_its_authors_run_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.py").write_text(FAKE_RECVAE)
    reference = importlib.import_module("recvae_reference_peer")
    held_out = _held_out()
    history = csr_array(np.vstack([np.zeros((1, 130)), held_out.history.toarray()[1:]]))
    settings = {"gamma": 0.01, "batch_size": 12, "epochs": 3, "learning_rate": 0.05, "latent_dim": 4}
    train = csr_array(np.maximum(random_histories(20, 130, density=0.2).toarray(), np.eye(20, 130)))
    task = protocol.Task(train, {"validation": history}, held_out.target, settings, 1, 1, tmp_path)
    load = reference.reference_model
    module = load(tmp_path)
    monkeypatch.setattr(reference, "reference_model", lambda _: module)
    fitted = reference.fit(task)
    encoder, decoder = (
        ((12, 0.01, 0.5, True), (8, 0.01, 0.5, True)),
        ((12, 0.01, 0.0, True), (8, 0.01, 0.0, True)),
    )
    assert module.VAE.calls == 3 * [*(3 * encoder), "prior", *decoder]
    assert len(fitted.curve) == 3
    scores = fitted.score(history)
    assert (scores[0] == 0).all()
    assert np.isfinite(scores).all()
    with pytest.raises(FileNotFoundError, match="--checkout"):
        load(tmp_path / "none")


def test_the_reference_recvae_trains_one_part_at_a_time(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(FAKE_RECVAE)
    train = csr_array(np.maximum(random_histories(20, 130, density=0.2).toarray(), np.eye(20, 130)))
    reference = importlib.import_module("recvae_reference_peer").Reference(tmp_path, train, {}, seed=1)

    def weights() -> tuple[torch.Tensor, torch.Tensor]:
        return tuple(part.weight.clone() for part in (reference.model.encoder, reference.model.decoder))

    for index, name in enumerate(("encoder", "decoder")):
        before = weights()
        reference.train_part(name, n_epochs=1, dropout=0.5)
        assert [torch.equal(*pair) for pair in zip(before, weights(), strict=True)] == [
            index == 1,
            index == 0,
        ]


def test_a_user_of_two_splits_counts_once(tmp_path: Path) -> None:
    def write(name: str, users: list[int], values: list[float]) -> dict[str, str]:
        columns = {"user_id": users, **dict.fromkeys(ranking.METRICS, values)}
        pd.DataFrame(columns).to_parquet(tmp_path / name)
        return {"per_user": name}

    trials = [write("a", [3, 1], [0.2, 0.4]), write("b", [5, 3], [1.0, 0.6])]
    users = table.users_of(trials, tmp_path)
    assert users["user_id"].tolist() == [1, 3, 5]
    assert users["ndcg@100"].tolist() == pytest.approx([0.4, 0.4, 1.0])


def test_a_foreign_folder_is_no_environment(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(environment.PeerEnvironmentError, match="other files"):
        environment.peer_python("implicit", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_a_complete_environment_is_not_made_again(tmp_path: Path) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.touch()
    record = tmp_path / environment.RECORD
    record.write_text(json.dumps({"requirements": environment.ENVIRONMENTS["implicit"].wanted()}))
    assert environment.peer_python("implicit", tmp_path) == python
    record.write_text(json.dumps({"requirements": ["implicit==0.1"]}))
    with pytest.raises(environment.PeerEnvironmentError):
        environment.peer_python("implicit", tmp_path)


def test_the_catalogue_names_what_there_is() -> None:
    systems = benchmark.read_systems(benchmark.CATALOGUE, None, ["ease", "popularity"])
    for system in systems:
        assert len(system.trials) >= (1 if system.name == "popularity" else 5)
        if system.script is not None:
            assert system.script.exists()
            assert system.environment in environment.ENVIRONMENTS
    assert [system.name for system in systems][-2:] == ["ease", "popularity"]
    assert systems[-1].trials == ([],)
