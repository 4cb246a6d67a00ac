"""Runs that were spoilt, by a kill, a disk or a hand: one line that names the file, exit code 2, nothing changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import recsys_vae
from recsys_vae.cli.main import main
from recsys_vae.exports import read_vectors
from recsys_vae.exports.run_manifest import _digest, _render, write_manifest

pytestmark = pytest.mark.filterwarnings("ignore")

TINY = ("train", "dataset=tiny", "evaluation.metrics=[ndcg@10,recall@5]")
VAE = (
    *TINY,
    *("model.latent_dim=4", "model.hidden_dims=[8]", "trainer.monitor=ndcg@10", "trainer.tensorboard=false"),
    *("trainer.accelerator=cpu", "trainer.max_epochs=3", "trainer.checkpoint_seconds=0.0"),
)

Refused = Callable[..., str]


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every entry, but for the logs: what went wrong with a resumed run may be written there."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if path.name not in ("log.txt", ".lock")
    }


@pytest.fixture
def refused(tmp_path, monkeypatch, capfd) -> Refused:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")

    def check(arguments: list[str], *said: str) -> str:
        before = contents(tmp_path)
        capfd.readouterr()
        assert main(arguments) == 2
        told = capfd.readouterr().err
        errors = [line for line in told.splitlines() if line.startswith("recsys-vae: ")]
        assert len(errors) == 1, told
        assert told.endswith(errors[0] + "\n")
        assert "Traceback" not in told
        for text in said:
            assert text in errors[0]
        assert contents(tmp_path) == before
        return errors[0]

    return check


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    assert main([*VAE, f"run={folder / 'vae'}"]) == 0
    assert main([*TINY, "model=ease", f"run={folder / 'ease'}"]) == 0
    return folder


@pytest.fixture
def broken(runs, tmp_path) -> Path:
    return Path(shutil.copytree(runs / "vae", tmp_path / "broken"))


def reseal(run: Path) -> None:
    """A manifest that vouches for what is there now."""
    write_manifest(run, leave_out=())


def rewrite(run: Path, name: str, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.read_table(run / name)), run / name)
    reseal(run)


def replaced(name: str, values: Any) -> Callable[[pa.Table], pa.Table]:
    """The column with the same values in every row, or with an array of its own."""

    def change(table: pa.Table) -> pa.Table:
        column = values if isinstance(values, pa.Array) else pa.array([values] * table.num_rows)
        return table.set_column(table.column_names.index(name), name, column)

    return change


# Tables


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (replaced("history", [10**8]), "item indices from 0 to 29 in history, came 100000000"),
        (replaced("target", [30]), "item indices from 0 to 29 in target, came 30"),
        (replaced("target", [-1]), "item indices from 0 to 29 in target, came -1"),
        (replaced("history", [2**40]), "item indices from 0 to 29 in history, came 1099511627776"),
        (replaced("history", [0.5]), "lists of whole numbers as history, came list"),
        (replaced("history", 3), "lists of whole numbers as history, came int64"),
        (replaced("history", [1, None]), "lists of whole numbers as history, came nothing"),
        (lambda table: table.drop_columns("history"), "expected one column history, came user_id"),
        (lambda table: table.drop_columns("user_id"), "expected one column user_id, came part"),
        (lambda table: table.drop_columns("part"), "expected one column part"),
        (replaced("user_id", 0.5), "expected whole numbers or text as user_id, came double"),
        (replaced("part", None), "expected text as part, came null"),
        (
            lambda table: table.append_column("target_weight", pa.array([[1.0] * 99] * table.num_rows)),
            "expected as many weights in target_weight as items in target",
        ),
        (
            lambda table: table.append_column("history_weight", pa.array([[float("nan")]] * table.num_rows)),
            "expected finite numbers in history_weight",
        ),
    ],
)
def test_users_that_make_no_sense(refused, broken, change, said) -> None:
    rewrite(broken, "users.parquet", change)
    said = f"run: {broken / 'users.parquet'} cannot be read: ", said
    refused(["evaluate", f"run={broken}"], *said)
    refused(["recommend", f"run={broken}", "user=1"], *said)
    refused(["export", f"run={broken}", "output=x.npz"], *said)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda table: table.drop_columns("item_id"), "expected one column item_id"),
        (replaced("item_id", 1), "expected every item_id once"),
        (replaced("item_id", None), "expected whole numbers or text as item_id, came null"),
        (replaced("item_index", 0), "expected item_index from 0 in steps of 1"),
        (replaced("title", 5), "expected text as title, came int64"),
        (replaced("train_users", "many"), "expected whole numbers as train_users, came string"),
        (replaced("train_users", pa.array([None] * 30, pa.int64())), "train_users, came nothing in 30 rows"),
    ],
)
def test_items_that_make_no_sense(refused, broken, change, said) -> None:
    rewrite(broken, "items.parquet", change)
    said = f"run: {broken / 'items.parquet'} cannot be read: ", said
    refused(["evaluate", f"run={broken}"], *said)
    refused(["recommend", f"run={broken}", "items=[1]"], *said)
    refused(["export", f"run={broken}", "what=items", "output=x.npz"], *said)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda table: table.drop_columns("user_id"), "expected one column user_id"),
        (replaced("ndcg@10", "good"), "expected numbers as ndcg@10, came string"),
    ],
)
def test_metrics_of_users_that_make_no_sense(refused, runs, broken, change, said) -> None:
    rewrite(broken, "per_user.parquet", change)
    arguments = ["compare", str(runs / "ease"), str(broken), "metrics=[ndcg@10]"]
    refused(arguments, f"run: {broken / 'per_user.parquet'} cannot be read: ", said)


@pytest.mark.parametrize("text", ["{}", '{"sha256": 7}', '{"sha256": null}'])
def test_a_split_without_a_digest(refused, runs, broken, text) -> None:
    (broken / "split.json").write_text(text)
    reseal(broken)
    said = f"run: {broken / 'split.json'} cannot be read: expected the split's sha256, came"
    refused(["compare", str(runs / "ease"), str(broken), "metrics=[ndcg@10]"], said)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["model.safetensors"], "expected files by name, came list"),
        (None, "expected files by name, came NoneType"),
        ({"log.txt": {"sha256": "00"}}, "expected bytes and sha256 of 'log.txt'"),
        ({"log.txt": {"bytes": 3}}, "expected bytes and sha256 of 'log.txt'"),
        ({"log.txt": {"bytes": "3", "sha256": "00"}}, "expected bytes and sha256 of 'log.txt'"),
        ({"log.txt": 3}, "expected bytes and sha256 of 'log.txt', came 3"),
        ({"log\0.txt": {"bytes": 3, "sha256": "00"}}, "expected bytes and sha256 of"),
    ],
)
def test_a_manifest_that_vouches_for_itself_alone(refused, broken, files, said) -> None:
    record = {"format": 1, "package": "0", "files": files}
    path = broken / "manifest.json"
    path.write_text(_render({**record, "sha256": _digest(record)}))
    refused(["evaluate", f"run={broken}"], f"run: {path}: ", said)


def test_half_a_surrogate_in_a_manifest(refused, broken) -> None:
    path = broken / "manifest.json"
    path.write_text(json.dumps({"format": 1, "files": {"\ud800": {}}, "sha256": ""}))
    refused(["evaluate", f"run={broken}"], f"run: {path} was changed")


# Null, and numbers that no machine can hold


@pytest.mark.parametrize(
    "key",
    [
        *("trainer.objective", "trainer.kl_schedule", "trainer.learning_rate_schedule", "trainer.optimiser"),
        *("trainer.monitor", "trainer.accelerator", "trainer.devices", "trainer.kl_schedule.cap"),
        *("model.hidden_dims", "model.input_dropout", "evaluation.metrics", "split.target_fraction"),
        *("dataset.name", "filters", "split", "evaluation"),
    ],
)
def test_null_where_train_needs_a_value(refused, key) -> None:
    line = refused(["train", "dataset=tiny", "run=x", f"{key}=null"], key)
    assert line.startswith(f"recsys-vae: {key}: ")


def test_null_in_a_list_and_in_a_closed_form_model(refused) -> None:
    refused([*TINY, "model=ease", "model.l2=null"], "model.l2: expected a")
    refused([*VAE, "model.hidden_dims=[8,null]"], "model.hidden_dims: expected")


def test_null_where_it_says_something(tmp_path) -> None:
    """Every default that is null, written out, and the threshold, which keeps every row."""
    nulls = ("threads=null", "filters.rating_threshold=null", "dataset.source=null", "dataset.cache_dir=null")
    assert main([*TINY, "model=popularity", *nulls, f"run={tmp_path / 'run'}"]) == 0
    assert main(["evaluate", f"run={tmp_path / 'run'}", "output=null", "threads=null"]) == 0


def test_null_where_a_reader_needs_a_value(refused, runs) -> None:
    vae = f"run={runs / 'vae'}"
    refused(["evaluate", "run=null"], "run: expected a")
    refused(["export", "run=null", "output=x.npz"], "run: expected a")
    refused(["export", vae, "output=null"], "output: expected a")
    refused(["export", vae, "output=x.npz", "what=null"], "what: expected a")
    refused(["evaluate", vae, "accelerator=null"], "accelerator: expected a")


def test_more_threads_than_there_can_be(refused, runs) -> None:
    for verb in ([*TINY, "model=ease"], ["evaluate", f"run={runs / 'vae'}"]):
        refused([*verb, "threads=100000000"], "threads: expected at most 4096, came 100000000")


# Interrupted runs


class KilledError(Exception):
    """Stands for a process that ends without warning."""


def kill(arguments: list[str], monkeypatch) -> None:
    """Train, and die after the training."""

    def die(*_: Any) -> None:
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr("recsys_vae.cli.train._evaluate", die)
        with pytest.raises(KilledError):
            main(arguments)


def test_resume_without_a_name_takes_up_the_newest_unfinished_run(tmp_path, monkeypatch, capfd) -> None:
    monkeypatch.chdir(tmp_path)
    stem = tmp_path / "runs" / "tiny-mult_vae-seed1"
    assert main([*VAE]) == 0
    kill([*VAE], monkeypatch)
    second = stem.with_name(f"{stem.name}-2")
    assert second.with_name(f"{second.name}.partial").is_dir()
    (tmp_path / "runs" / "tiny-mult_vae-seed12.partial").mkdir()  # another run's
    assert main([*VAE, "resume=true"]) == 0
    assert (second / "model.safetensors").read_bytes() == (stem / "model.safetensors").read_bytes()
    assert not second.with_name(f"{second.name}.partial").exists()
    capfd.readouterr()
    assert main([*VAE, "resume=true"]) == 2
    assert "tiny-mult_vae-seed1 is finished, there is nothing to resume" in capfd.readouterr().err


def test_a_name_that_ends_like_an_unfinished_run(refused) -> None:
    refused([*VAE, "run=x.partial"], "run: expected a name that does not end in .partial", "came 'x.partial'")


@pytest.fixture
def partial(tmp_path, monkeypatch) -> Path:
    kill([*VAE, f"run={tmp_path / 'killed'}"], monkeypatch)
    return tmp_path / "killed.partial"


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("checkpoint/last.ckpt", truncated),
        ("checkpoint/last.ckpt", lambda content: b""),
        ("checkpoint/last.ckpt", lambda content: b"nonsense"),
        ("config.yaml", lambda content: b"a: ["),
        ("config.yaml", lambda content: b""),
        ("config.yaml", lambda content: b"\xff\xfe"),
        ("split.json", truncated),
        ("split.json", lambda content: b"[]"),
        ("history.csv", lambda content: b"\xff\xfe\n"),
        ("history.csv", lambda content: content.replace(b"epoch", b"epoque")),
    ],
)
def test_resuming_from_a_damaged_partial(refused, partial, name, change) -> None:
    path = partial / name
    path.write_bytes(change(path.read_bytes()))
    refused([*VAE, f"run={partial.with_name('killed')}", "resume=true"], str(path))


def test_a_checkpoint_of_something_else(refused, partial) -> None:
    path = partial / "checkpoint" / "last.ckpt"
    torch.save({"state_dict": {}}, path)
    refused([*VAE, f"run={partial.with_name('killed')}", "resume=true"], str(path), "lacks callbacks, epoch")


def test_a_run_without_a_checkpoint_survives_a_damaged_configuration(refused, partial) -> None:
    shutil.rmtree(partial / "checkpoint")
    (partial / "config.yaml").write_text("a: [")
    refused([*VAE, f"run={partial.with_name('killed')}", "resume=true"], str(partial / "config.yaml"))


def test_resume_notices_other_weights_on_the_same_pairs(refused, tmp_path, monkeypatch) -> None:
    rows = [(user, item, 4 + (user * item) % 2) for user in range(40) for item in range(8)]
    ratings = pd.DataFrame(rows, columns=["user", "item", "rating"])
    ratings.to_csv(tmp_path / "r.csv", index=False)
    arguments = [
        *("train", "dataset=table", f"dataset.path={tmp_path / 'r.csv'}", "filters.weights=true"),
        *("evaluation.metrics=[ndcg@5]", "model=popularity", f"run={tmp_path / 'killed'}"),
    ]
    kill(arguments, monkeypatch)
    ratings["rating"] = 9 - ratings["rating"]
    ratings.to_csv(tmp_path / "r.csv", index=False)
    refused([*arguments, "resume=true"], "dataset: the interrupted run had the weights", "the data changed")


# What export writes


@pytest.fixture
def histories(tmp_path) -> Path:
    """Seven users in lists, the third and the last without an item that the tiny data has."""
    path = tmp_path / "histories.parquet"
    lists = [["heist-01", "heist-02"], ["heist-03"], [], ["heist-04", "heist-05"], ["heist-07"], ["heist-08"]]
    lists.append(["nothing"])
    pd.DataFrame({"user_id": [f"u{n}" for n in range(7)], "items": lists}).to_parquet(path)
    return path


@pytest.mark.parametrize("suffix", [".parquet", ".npz", ".safetensors"])
@pytest.mark.parametrize("space", ["latent", "retrieval"])
def test_vectors_of_a_file_are_streamed(runs, histories, tmp_path, capfd, suffix, space) -> None:
    output, run = tmp_path / f"vectors{suffix}", runs / "vae"
    arguments = [f"run={run}", f"input={histories}", f"space={space}", f"output={output}", "batch_size=2"]
    assert main(["export", *arguments]) == 0
    ids, vectors = read_vectors(output)
    assert ids.tolist() == [f"u{n}" for n in range(7)]
    recommender = recsys_vae.load(run)
    history = recommender.history_of(["heist-04", "heist-05"])
    if space == "latent":
        assert vectors.keys() == {"mean", "std"}
        assert np.allclose(vectors["mean"][3], recommender.taste_vectors(history)["mean"][0], atol=1e-6)
    else:
        products = vectors["vector"][3] @ recommender.model.item_vectors().numpy().T
        assert np.allclose(products, recommender.score(history)[0].numpy(), atol=1e-4)
    told = [text for text in capfd.readouterr().err.splitlines() if "have no known item" in text]
    assert len(told) == (space == "retrieval")
    assert all("2 of 7 users" in text and "popularity ranking" in text for text in told)


def test_histories_of_a_file_are_never_in_memory_together(runs, tmp_path, monkeypatch) -> None:
    """No block is read before the one before it is encoded."""
    from recsys_vae.cli import export

    path = tmp_path / "h.parquet"
    pd.DataFrame({"user_id": range(100), "items": [["heist-01"]] * 100}).to_parquet(path)
    most, read, encoded = 0, 0, 0
    whole, encode = export.read_histories, export._Encoder.__call__

    def reading(*arguments: Any, **options: Any) -> Any:
        nonlocal read, most
        for part in whole(*arguments, **options):
            read += len(part.user_ids)
            most = max(most, read - encoded)
            yield part

    def encoding(self: Any, rows: Any) -> Any:
        nonlocal encoded
        encoded += rows.shape[0]
        return encode(self, rows)

    monkeypatch.setattr(export, "read_histories", reading)
    monkeypatch.setattr(export._Encoder, "__call__", encoding)
    arguments = [f"run={runs / 'vae'}", f"input={path}", f"output={tmp_path / 'v.parquet'}", "batch_size=10"]
    assert main(["export", *arguments]) == 0
    assert (encoded, most) == (100, 10)


@pytest.mark.parametrize(
    ("verb", "name"),
    [
        (["export"], "items.parquet"),
        (["export"], "model.safetensors"),
        (["evaluate"], "metrics.json"),
        (["evaluate"], "manifest.json"),
        (["recommend", "items=[1]"], "users.parquet"),
        (["recommend", "items=[1]"], "history.csv"),
    ],
)
def test_an_output_in_place_of_a_runs_own_file(refused, runs, broken, verb, name) -> None:
    arguments = [*verb, f"run={runs / 'vae'}", f"output={broken / name}"]
    refused(arguments, f"output: expected a file of its own, {broken / name} belongs to a run")
    link = broken.with_name("link")
    link.symlink_to(broken)
    refused([*verb, f"run={broken}", f"output={link / name}"], "belongs to a run")


def test_an_output_beside_a_runs_files(runs, broken) -> None:
    (broken.parent / "manifest.json").write_text('{"files": {"x.json": 1}}')  # some other program's
    for output in (broken / "again.json", broken.parent / "x.json"):
        assert main(["evaluate", f"run={broken}", f"output={output}"]) == 0
    assert main(["evaluate", f"run={broken}"]) == 0
