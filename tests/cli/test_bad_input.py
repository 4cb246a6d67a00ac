"""What bad input gets: one line that names the argument or the file and line, exit code 2, nothing left behind.

Through the function that the installed command calls; at the end a few times through the command itself.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

# Imported here, and not by the first test: PyTorch then makes a folder among the temporary files.
import recsys_vae.cli.train  # noqa: F401
from recsys_vae.cli.main import main
from recsys_vae.interactions import download

pytestmark = pytest.mark.filterwarnings("ignore")

ROWS = ["user,item,rating", *(f"{user},{item},{item % 5 + 1}" for user in range(20) for item in range(8))]
GOOD = "\n".join(ROWS) + "\n"
FIRST_OF_USER_3 = "\n3,0,1\n"  # on line 26

# From the arguments, and what the line must say, to that line.
Refused = Callable[..., str]


@pytest.fixture
def refused(tmp_path, monkeypatch, capfd) -> Refused:
    """Run the command in a folder of its own and check all that is the same for every mistake."""
    for name in ("work", "temporary"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setenv("RECSYS_VAE_DATA", str(tmp_path / "cache"))

    def check(arguments: list[str], *said: str) -> str:
        before = contents(tmp_path)
        capfd.readouterr()
        assert main(arguments) == 2
        told = capfd.readouterr().err
        errors = [line for line in told.splitlines() if line.startswith("recsys-vae: ")]
        assert len(errors) == 1, told
        assert told.endswith(errors[0] + "\n"), "something was printed after the error"
        assert "Traceback" not in told
        for text in said:
            assert text in errors[0]
        assert contents(tmp_path) == before
        return errors[0]

    return check


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every entry below a folder, with the bytes of files; but for the lock of the downloads, which stays."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if path.name != "cache" and not path.match("cache/.*.lock")
    }


def table(path: Path, *more: str, verb: str = "train") -> list[str]:
    """Arguments that read ``path`` as a table of ratings."""
    model = ["model=popularity"] if verb == "train" else []
    return [verb, "dataset=table", f"dataset.path={path}", *model, *more]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def zipped(path: Path, **members: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in members.items():
            archive.writestr(name.replace("_", "."), text)
    return path


@pytest.fixture
def good(tmp_path) -> Path:
    return write(tmp_path / "good.csv", GOOD)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Three finished runs: of a VAE, of a closed-form model, of one on another split without histories."""
    folder = tmp_path_factory.mktemp("runs")
    metrics = ["dataset=tiny", "evaluation.metrics=[ndcg@10,recall@5]"]
    small = ["model.latent_dim=4", "model.hidden_dims=[8]", "trainer.max_epochs=1", "trainer.monitor=ndcg@10"]
    vae = ["trainer.tensorboard=false", *small]
    assert main(["train", *metrics, *vae, f"run={folder / 'vae'}"]) == 0
    assert main(["train", *metrics, "model=ease", f"run={folder / 'ease'}"]) == 0
    other = ["model=popularity", "seed=2", "save_histories=false"]
    assert main(["train", *metrics, *other, f"run={folder / 'other'}"]) == 0
    return folder


# Tables of ratings


@pytest.mark.parametrize("verb", ["train", "prepare"])
def test_missing_file(refused, tmp_path, verb) -> None:
    refused(table(tmp_path / "none.csv", verb=verb), f"{tmp_path / 'none.csv'}: no such file")


def test_a_directory_and_no_path_at_all(refused, tmp_path) -> None:
    refused(table(tmp_path), f"{tmp_path} is a directory: expected a file")
    refused(["train", "dataset=table"], "dataset.path is not given: expected the path of a table")


@pytest.mark.parametrize("name", ["r.csv", "r.tsv", "r.dat", "r.inter", "r.parquet", "r.csv.gz", "r.zip"])
def test_empty_file(refused, tmp_path, name) -> None:
    refused(table(write(tmp_path / name, "")), f"{name} is empty")


def test_nothing_but_blank_lines_or_an_empty_gzip(refused, tmp_path) -> None:
    refused(table(write(tmp_path / "r.csv", "\n\n\n")), "r.csv is empty")
    refused(table(write(tmp_path / "r.csv.gz", gzip.compress(b"", mtime=0))), "r.csv.gz is empty")


def test_header_only(refused, tmp_path) -> None:
    header = ROWS[0] + "\n"
    pd.DataFrame({"user": [], "item": []}).to_parquet(tmp_path / "r.parquet")
    for path in (
        write(tmp_path / "r.csv", header),
        write(tmp_path / "r.csv.gz", gzip.compress(header.encode())),
        zipped(tmp_path / "r.zip", r_csv=header),
        tmp_path / "r.parquet",
    ):
        refused(table(path), path.name, "has a header but no rows")


@pytest.mark.parametrize("column", ["user", "item"])
def test_a_column_missing(refused, tmp_path, column) -> None:
    path = write(tmp_path / "r.csv", GOOD.replace(column, "thing"))
    refused(table(path), f"{path} has no column for the {column}", "thing", f"dataset.{column}=COLUMN")
    pd.read_csv(path).to_parquet(tmp_path / "r.parquet")
    refused(table(tmp_path / "r.parquet"), "r.parquet has no column for the", "thing")


@pytest.mark.parametrize("column", ["user", "item", "rating", "timestamp"])
def test_a_column_that_was_named_is_missing(refused, good, column) -> None:
    refused(table(good, f"dataset.{column}=raitng"), f"dataset.{column}='raitng'", "did you mean 'rating'?")


def test_an_item_table_without_titles(refused, tmp_path, good) -> None:
    items = write(tmp_path / "items.csv", "item_id,year\n1,1995\n")
    told = refused(table(good, f"dataset.items={items}"), f"{items} has no column for the title", "one named")
    assert "dataset.title" not in told


def test_one_column_for_two_roles(refused, good) -> None:
    refused(table(good, "dataset.user=item"), "dataset.user and dataset.item are both column 'item'")


@pytest.mark.parametrize("value", ["abc", "", "NA", "4,5", "nan", "NaN", "inf", "-inf", "1e99"])
def test_a_rating_that_is_no_finite_number(refused, tmp_path, value) -> None:
    text = GOOD.replace(",", ";").replace(FIRST_OF_USER_3.replace(",", ";"), f"\n3;0;{value}\n")
    said = "line 26", f"rating {value!r} is not a", "number"
    refused(table(write(tmp_path / "r.csv", text)), f"{tmp_path / 'r.csv'}", *said)
    if value == "abc":
        refused(table(write(tmp_path / "r.csv.gz", gzip.compress(text.encode()))), "r.csv.gz", *said)


@pytest.mark.parametrize(
    ("value", "said"), [(float("inf"), "'inf' is not a finite number"), (float("nan"), "is missing")]
)
def test_a_rating_in_parquet_that_is_no_finite_number(refused, tmp_path, value, said) -> None:
    ratings = pd.DataFrame({"user": [1, 2], "item": [1, 2], "rating": [4.0, value]})
    ratings.to_parquet(tmp_path / "r.parquet")
    refused(table(tmp_path / "r.parquet"), "r.parquet, row 2", "rating", said)


@pytest.mark.parametrize(("row", "found"), [("3,0", 2), ("3", 1), ("3,0,1,9", 4)])
def test_a_row_with_too_few_or_too_many_fields(refused, tmp_path, row, found) -> None:
    text = GOOD.replace(FIRST_OF_USER_3, f"\n{row}\n")
    said = f"line 26: expected 3 fields (user, item, rating), found {found}"
    refused(table(write(tmp_path / "r.csv", text)), f"{tmp_path / 'r.csv'}, {said}")
    refused(table(zipped(tmp_path / "r.zip", r_csv=text)), "r.zip/r.csv", said)
    text = text.replace(",", "::").partition("\n")[2]
    names = "dataset.names=[user,item,rating]"
    refused(table(write(tmp_path / "r.dat", text), names), "r.dat, line 25", f"found {found}")


def test_an_empty_id(refused, tmp_path) -> None:
    path = write(tmp_path / "r.csv", GOOD.replace(FIRST_OF_USER_3, "\n,0,1\n"))
    refused(table(path), "r.csv, line 26: the user id is empty")


def test_wrong_encoding(refused, tmp_path, good) -> None:
    text = GOOD.replace(FIRST_OF_USER_3, "\n3,Amélie,1\n")
    latin = write(tmp_path / "latin.csv", text.encode("latin-1"))
    refused(table(latin), "latin.csv, line 26: byte 0xe9 is not utf-8", "dataset.encoding=latin-1")
    refused(table(latin, "dataset.encoding=ascii"), "latin.csv, line 26: byte 0xe9 is not ascii")
    wide = write(tmp_path / "wide.csv", text.encode("utf-16"))
    refused(table(wide), "wide.csv, line 1", "is not utf-8", "dataset.encoding=utf-16")
    refused(table(write(tmp_path / "nul.csv", GOOD.replace("\n3,0", "\n3,\0"))), "line 26: a NUL byte")
    refused(table(good, "dataset.encoding=utf-99"), "dataset.encoding='utf-99': expected a text encoding")


@pytest.mark.parametrize(
    ("name", "kind"),
    [("r.parquet", "Parquet"), ("r.csv.gz", "gzip"), ("r.parquet.gz", "gzip"), ("r.zip", "zip")],
)
def test_a_file_that_is_not_what_its_name_claims(refused, tmp_path, name, kind) -> None:
    refused(table(write(tmp_path / name, GOOD)), f"{name} is not a {kind} file, although its name ends in")


def test_a_damaged_parquet_gzip_or_zip(refused, tmp_path, good) -> None:
    pd.read_csv(good).to_parquet(tmp_path / "whole.parquet")
    parquet = (tmp_path / "whole.parquet").read_bytes()
    refused(table(write(tmp_path / "r.parquet", parquet[:-9])), "r.parquet is not a readable Parquet file")
    refused(table(write(tmp_path / "p.csv", parquet)), "p.csv holds Parquet data", "ends in .parquet")
    packed = gzip.compress(GOOD.encode())
    refused(table(write(tmp_path / "r.csv.gz", packed[:-9])), "r.csv.gz is damaged or cut short")
    flipped = packed[:-8] + bytes([packed[-8] ^ 1]) + packed[-7:]
    refused(table(write(tmp_path / "r.csv.gz", flipped)), "r.csv.gz is damaged or cut short: CRC")
    archive = zipped(tmp_path / "whole.zip", r_csv=GOOD)
    refused(table(write(tmp_path / "r.zip", archive.read_bytes()[:-30])), "r.zip is damaged or cut short")
    refused(table(zipped(tmp_path / "none.zip", a_png="", b_png="")), "none.zip: expected one table inside")
    refused(table(zipped(tmp_path / "two.zip", a_csv=GOOD, b_csv=GOOD)), "two.zip holds 2 tables")


@pytest.mark.parametrize("verb", ["train", "prepare"])
def test_nothing_left_after_the_filters(refused, good, verb) -> None:
    keep_all = "filters.rating_threshold=null"
    for name, least, most in (("min_user_items", 9, 8), ("min_item_users", 21, 20)):
        arguments = table(good, keep_all, f"filters.{name}={least}", verb=verb)
        refused(arguments, f"filters.{name}={least} leaves no interactions", f"more than {most}")


def test_a_threshold_above_every_rating(refused, good) -> None:
    said = "filters.rating_threshold=6 is above every rating: the largest is 5"
    refused(table(good, "filters.rating_threshold=6"), said)


def test_fewer_users_than_the_split_needs(refused, tmp_path, good) -> None:
    keep_all = "filters.rating_threshold=null"
    said = "n_test_users=20 needs 23 users, one of them to train on; there are 20"
    refused(table(good, keep_all, "split.n_test_users=20"), "split.n_validation_users", said)
    one = write(tmp_path / "one.csv", "\n".join(ROWS[:9]))
    refused(table(one, keep_all), "split.n_validation_users=0.1 of 1 users is none: the split needs 11")


@pytest.mark.parametrize("split", ["temporal", "leave_last_out"])
def test_a_split_by_time_of_a_table_without_times(refused, good, split) -> None:
    arguments = table(good, f"split={split}", "filters.rating_threshold=null")
    refused(arguments, f"split={split}: expected interactions with times", "dataset.timestamp=COLUMN")


# Names and values of arguments


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trian"], ["'trian'", "did you mean 'train'?"]),
        (["train", "dataset=ml-1n"], ["dataset", "'ml-1n'", "did you mean 'ml-1m'?"]),
        (["prepare", "dataset=tinny"], ["dataset", "'tinny'", "did you mean 'tiny'?"]),
        (["train", "dataset=tiny", "dataset.name=tinny"], ["dataset.name=tinny", "did you mean 'tiny'?"]),
        (["train", "model=eas"], ["model", "'eas'", "did you mean 'ease'?"]),
        (
            ["train", "model=resnet"],
            ["model", "'resnet'", "expected one of bpmf, chow_liu, "],
        ),
        (["train", "split=tempral"], ["split", "'tempral'", "did you mean 'temporal'?"]),
        (["train", "mdoel=ease"], ["mdoel", "did you mean 'model'?"]),
        (["train", "trainer.max_epoch=3"], ["trainer.max_epoch:", "did you mean 'trainer.max_epochs'?"]),
        (["train", "model=ease", "trainer.max_epochs=3"], ["trainer.max_epochs", "model=ease"]),
        (["evaluate", "run=x", "prt=test"], ["prt", "did you mean 'part'?"]),
        (["evaluate", "run=x", "dataset=tiny"], ["dataset: unknown key of recsys-vae evaluate"]),
        (["recommend", "run=x", "usr=1"], ["usr", "did you mean 'user'?"]),
        (["export", "run=x", "outptu=x.npz"], ["outptu", "did you mean 'output'?"]),
        (["compare", "x", "y", "metricz=[a]"], ["metricz", "did you mean 'metrics'?"]),
        (["train", "seed"], ["'seed'", "expected KEY=VALUE"]),
        (["train", "--seed=3"], ["'--seed=3'", "expected KEY=VALUE"]),
        (["train", "seed=1", "seed=2"], ["seed: expected once, came twice"]),
        (["train", "seed=[1"], ["seed", "'[1'", "quote it"]),
        (["evaluate"], ["run: expected a value", "came none"]),
        (["export", "run=x"], ["output: expected a value", "came none"]),
        (["train", "hydra.run.dir=x"], ["hydra.run.dir: unknown key"]),
        (["train", "+hydra.job.name=x"], ["hydra.job.name: unknown key"]),
        (["train", "dataset.path=r.csv"], ["dataset.path: a setting of dataset=table", "add dataset=table"]),
        (["train", "model.density=0.1"], ["model.density: a setting of model=gmrf", "add model=gmrf"]),
        (["train", "--help", "model=eas"], ["model", "'eas'", "did you mean 'ease'?"]),
        (["train", "dataset=table", "dataset.path=${x}"], ["dataset.path: expected a text without '${'"]),
    ],
)
def test_an_unknown_or_misspelt_name(refused, arguments, said) -> None:
    refused(arguments, *said)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (
            "[ndgc@10]",
            "'ndgc@10'; did you mean 'ndcg'?",
        ),
        ("[ndcg@0]", "whole number k from 1 up"),
        ("[ndcg@-1]", "whole number k from 1 up"),
        ("[ndcg]", "whole number k from 1 up"),
        ("[ndcg@10,ndcg@10]", "each name once"),
        ("[]", "at least one name"),
        ("ndcg@10", "expected a list"),
        ("[ndcg@9999]", "ndcg@9999: expected k of at most 30 (the catalogue), came 9999"),
    ],
)
def test_a_metric_that_cannot_be(refused, runs, value, said) -> None:
    argument = f"evaluation.metrics={value}"
    refused(["train", "dataset=tiny", "model=popularity", argument], "metrics", said)
    refused(["evaluate", f"run={runs / 'ease'}", argument], "metrics", said)


def test_a_metric_to_monitor_that_cannot_be(refused) -> None:
    small = ["train", "dataset=tiny", "model.latent_dim=2", "model.hidden_dims=[]"]
    refused(
        [*small, "trainer.monitor=ndgc@10"],
        "trainer.monitor: expected a name such as ndcg@100, got 'ndgc@10'; did you mean 'ndcg'?",
    )
    refused([*small, "trainer.monitor=ndcg@31"], "trainer.monitor: ndcg@31: expected k of at most 30")


def test_a_learning_rate_below_zero(refused) -> None:
    refused(
        ["train", "dataset=tiny", "model.latent_dim=2", "model.hidden_dims=[]", "trainer.optimiser.lr=-1"],
        "trainer.optimiser: Invalid learning rate: -1",
    )


@pytest.mark.parametrize("value", [0, -1])
@pytest.mark.parametrize(
    "key",
    [
        *("model.latent_dim", "trainer.max_epochs", "trainer.batch_size", "trainer.patience"),
        *("evaluation.batch_size", "filters.min_user_items", "filters.min_item_users"),
        *("split.n_validation_users", "split.n_test_users", "threads"),
    ],
)
def test_a_size_of_zero_or_less(refused, key, value) -> None:
    small = {"model.latent_dim": "2", "model.hidden_dims": "[]", "trainer.tensorboard": "false", key: value}
    arguments = [f"{name}={text}" for name, text in small.items()]
    line = refused(["train", "dataset=tiny", *arguments], key, str(value))
    assert "expected" in line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["model.hidden_dims=[8,0]"], ["model.hidden_dims: expected a whole number of at least 1, came 0"]),
        (["model.hidden_dims=8"], ["model.hidden_dims: expected a list", "came 8"]),
        (["model.latent_dim=1.5"], ["model.latent_dim: expected a whole number, came 1.5"]),
        (["model.input_dropout=1.0"], ["model.input_dropout: expected a number in", "came 1.0"]),
        (["model=ease", "model.l2=0.0"], ["model.l2: expected a number in", "came 0.0"]),
        (["model=item_knn", "model.n_neighbours=0"], ["model.n_neighbours: expected", "came 0"]),
        (["model=edlae", "model.dropout=1.0"], ["model.dropout: expected", "came 1.0"]),
        (["model=rlae", "model.l2=-1.0"], ["model.l2: expected", "came -1.0"]),
        (["model=dlae", "model.precision=half"], ["model.precision: expected float32 or float64", "half"]),
        (["model=item_knn", "model.shrinkage=-1.0"], ["model.shrinkage: expected", "came -1.0"]),
        (["trainer.max_epochs=many"], ["trainer.max_epochs: expected a whole number, came 'many'"]),
        (["checkpoint_seconds=-1.0"], ["checkpoint_seconds: expected", "came -1.0"]),
        (["trainer.checkpoint_seconds=-1.0"], ["trainer.checkpoint_seconds: expected", "came -1.0"]),
        (["trainer.kl_schedule.epochs=-1.0"], ["kl_schedule.epochs: expected", "came -1.0"]),
        (["trainer.accelerator=tpuu"], ["accelerator: expected auto, cpu, cuda or mps, came 'tpuu'"]),
        (["filters.rating_threshold=nan"], ["filters.rating_threshold=nan: expected a finite number"]),
        (["filters.weights=maybe"], ["filters.weights: expected true or false, came 'maybe'"]),
        (["split.n_test_users=1.5"], ["split.n_test_users=1.5: expected a fraction"]),
        (["split.target_fraction=2.0"], ["split.target_fraction=2.0: expected a fraction"]),
        (["split.target_fraction=half"], ["split.target_fraction: expected a number, came 'half'"]),
        (["split.n_test_users=5000"], ["n_test_users=5000 needs 5013 users", "there are 120"]),
        (["seed=-1"], ["seed: expected a whole number", "came -1"]),
        (["seed=one"], ["seed: expected a whole number, came 'one'"]),
        (["save_histories=maybe"], ["save_histories: expected true or false, came 'maybe'"]),
        (["resume=maybe"], ["resume: expected true or false, came 'maybe'"]),
        (["resume=true"], ["run: nothing to resume", "tiny-mult_vae-seed1.partial does not exist"]),
    ],
)
def test_a_value_that_cannot_be(refused, arguments, said) -> None:
    refused(["train", "dataset=tiny", *arguments], *said)


def test_a_place_that_cannot_hold_a_run(refused, tmp_path, good, runs) -> None:
    refused(table(good, f"run={runs / 'ease'}"), "ease exists; choose another name")
    refused(table(good, f"run={good / 'run'}"), f"run: {good / 'run'}.partial cannot be written")
    refused(table(good, "run="), "run: expected a name for the run directory, came '.'")
    refused(table(good, "run=" + "x" * 300), "run: ", "cannot be written: File name too long")


def test_folders_that_were_made_for_a_run_go_with_it(refused, tmp_path, good) -> None:
    refused(table(good, "filters.rating_threshold=6", "run=a/b/c"), "rating_threshold")
    (tmp_path / "work" / "a").mkdir()
    refused(table(good, "filters.rating_threshold=6", "run=a/b/c"), "rating_threshold")


# Finished runs


READERS = {
    "evaluate": ["evaluate"],
    "recommend": ["recommend", "items=[1]"],
    "export": ["export", "output=vectors.npz"],
}


@pytest.mark.parametrize("verb", READERS)
def test_no_run_directory(refused, tmp_path, verb, good) -> None:
    for path, said in (
        (tmp_path / "none", "does not exist"),
        (good, "is a file"),
        (tmp_path / "work", "has no manifest.json"),
        ("", "has no manifest.json"),
    ):
        refused([*READERS[verb], f"run={path}"], f"run: expected a run directory, {path}", said)
    (tmp_path / "half.partial").mkdir()
    for name in ("half", "half.partial"):
        refused([*READERS[verb], f"run={tmp_path / name}"], "half.partial", "is unfinished", "resume=true")


@pytest.fixture
def broken(runs, tmp_path) -> Path:
    """A copy of a run, to be damaged."""
    return Path(shutil.copytree(runs / "vae", tmp_path / "broken"))


FILES = (
    *("config.yaml", "model.safetensors", "items.parquet", "users.parquet", "split.json", "metrics.json"),
    *("per_user.parquet", "history.csv", "report.html", "log.txt"),
)


@pytest.mark.parametrize("name", FILES)
def test_a_run_with_a_file_missing_truncated_or_changed(refused, broken, name) -> None:
    arguments, path = ["recommend", f"run={broken}", "items=[1]"], broken / name
    whole = path.read_bytes()
    path.unlink()
    refused(arguments, f"run: {path} is missing")
    write(path, whole[:-1])
    refused(arguments, f"run: {path} is truncated: expected {len(whole)} bytes, came {len(whole) - 1}")
    write(path, with_a_bit_flipped(whole))
    refused(arguments, f"run: {path} was changed: expected SHA-256")


@pytest.mark.parametrize("verb", [*READERS, "compare"])
def test_every_verb_notices_one_changed_byte(refused, runs, broken, verb) -> None:
    weights = broken / "model.safetensors"
    write(weights, with_a_bit_flipped(weights.read_bytes()))
    arguments = (
        [*READERS[verb], f"run={broken}"] if verb in READERS else [verb, str(runs / "ease"), str(broken)]
    )
    refused(arguments, f"run: {weights} was changed: expected SHA-256")


def with_a_bit_flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def test_a_run_of_another_version(refused, broken) -> None:
    manifest = json.loads((broken / "manifest.json").read_text())
    (broken / "manifest.json").write_text(json.dumps({**manifest, "format": 99}))
    for verb in READERS.values():
        refused([*verb, f"run={broken}"], "manifest.json: this version reads run format 1, came format 99")


def test_a_changed_manifest(refused, broken) -> None:
    path = broken / "manifest.json"
    whole = path.read_text()
    write(path, whole.replace('"bytes": ', '"bytes": 1', 1))
    refused(["evaluate", f"run={broken}"], f"run: {path} was changed")
    write(path, whole[: len(whole) // 2])
    refused(["evaluate", f"run={broken}"], f"run: {path} is not a readable manifest")


def test_a_run_that_cannot_do_what_is_asked(refused, runs) -> None:
    other, ease = f"run={runs / 'other'}", f"run={runs / 'ease'}"
    refused(["evaluate", other], "keeps no histories (save_histories=false)")
    refused(["recommend", other, "user=1"], "user: ", "keeps no histories", "items=[...]")
    refused(
        ["export", ease, "output=x.npz"],
        "what=users space=latent: expected what=weights, all that EASE can export",
    )
    weights = ["export", ease, "what=weights"]
    refused([*weights, "output=x.npz"], "output: expected a name ending in .parquet")
    refused([*weights, "output=x.parquet", "k=0"], "k: expected a whole number of at least 1")
    refused([*weights, "output=x.parquet", "input=h.csv"], "input: expected none with what=weights")
    refused(["export", ease, "what=items", "output=x.npz", "k=3"], "k: expected none with what=items")


# The verbs that read runs


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["user=nobody"], ["user: 'nobody' is not in", "items=[...]"]),
        (
            ["user=1", "items=[1]"],
            ["expected exactly one of user=, items=, input= and top_rated=true, came user and items"],
        ),
        ([], ["expected exactly one of user=, items=, input= and top_rated=true, came none"]),
        (["user=1", "top_rated=true"], ["expected exactly one of", "came user and top_rated"]),
        (["top_rated=3"], ["top_rated: expected true or false, came 3"]),
        (["top_rated=true"], ["top_rated: expected a run of model=popularity, came"]),
        (["items="], ["items: expected a list of ids or titles, came nothing"]),
        (["items=,"], ["items: expected at least one id or title, came ,"]),
        (["items=["], ["items: expected a list such as", "came '['"]),
        (["items=['Heat"], ["items: expected a list such as"]),
        (["items=['Heat', Casino]"], ["items: expected a list such as"]),
        (["items=['Heat', 1.5]"], ["items: expected ids or titles, came ['Heat', 1.5]"]),
        (["items=[]"], ["items: expected at least one id or title, came []"]),
        (["items=[true]"], ["items: expected ids or titles, came [true]"]),
        (["items=[1]", "k=0"], ["k: expected a whole number of at least 1, came 0"]),
        (["items=[1]", "k=-1"], ["k: expected a whole number of at least 1, came -1"]),
        (["items=[1]", "k=1.5"], ["k: expected a whole number, came 1.5"]),
        (["items=[1]", "k=ten"], ["k: expected a whole number, came 'ten'"]),
        (["items=[1]", "k=31"], ["k: expected a whole number from 1 to 30 (the catalogue), came 31"]),
        (["items=[1]", "batch_size=0"], ["batch_size: expected a whole number of at least 1, came 0"]),
        (["items=[1]", "threads=0"], ["threads: expected a whole number of at least 1, came 0"]),
        (["input=none.csv"], ["output: expected a file", "came none"]),
        (
            ["input=none.csv", "output=x.csv"],
            ["input: expected a file of histories, none.csv does not exist"],
        ),
        (
            ["input=none.doc", "output=x.csv"],
            ["input: expected a name ending in .parquet or .csv", "came 'none.doc'"],
        ),
    ],
)
def test_what_recommend_refuses(refused, runs, arguments, said) -> None:
    refused(["recommend", f"run={runs / 'vae'}", *arguments], *said)


def test_a_misspelt_title_is_named_with_titles_like_it(runs, capsys) -> None:
    assert main(["recommend", f"run={runs / 'vae'}", 'items=["Musicl 1, The (1991)"]', "k=3"]) == 0
    told = capsys.readouterr().err
    assert "'Musicl 1, The (1991)' is not in the training data" in told
    assert "did you mean 'Musical 1, The (1991)'" in told


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["part=tset"], "part: expected test or validation, came 'tset'"),
        (["evaluation.batch_size=0"], "evaluation.batch_size: expected a whole number of at least 1, came 0"),
        (
            ["evaluation.batch_size=-1"],
            "evaluation.batch_size: expected a whole number of at least 1, came -1",
        ),
        (["threads=0"], "threads: expected a whole number of at least 1, came 0"),
        (["accelerator=tpuu"], "accelerator: expected auto, cpu, cuda or mps, came 'tpuu'"),
    ],
)
def test_what_evaluate_refuses(refused, runs, arguments, said) -> None:
    refused(["evaluate", f"run={runs / 'vae'}", *arguments], said)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["what=usrs"], "what: expected users, items or weights, came 'usrs'"),
        (["space=ltent"], "space: expected latent or retrieval, came 'ltent'"),
        (["batch_size=0"], "batch_size: expected a whole number of at least 1, came 0"),
        (["batch_size=-1"], "batch_size: expected a whole number of at least 1, came -1"),
        (["input=none.csv"], "input: expected a file of histories, none.csv does not exist"),
    ],
)
def test_what_export_refuses(refused, runs, arguments, said) -> None:
    refused(["export", f"run={runs / 'vae'}", "output=x.npz", *arguments], said)


def test_what_compare_refuses(refused, runs) -> None:
    vae, ease, other = (str(runs / name) for name in ("vae", "ease", "other"))
    refused(["compare"], "runs: expected two or more run directories, came 0")
    refused(["compare", ease], "runs: expected two or more run directories, came 1")
    refused(["compare", ease, ease, "metrics=[ndcg@10]"], "runs: expected different runs")
    refused(
        ["compare", ease, str(runs / "none")], f"expected a run directory, {runs / 'none'} does not exist"
    )
    refused(["compare", ease, other], "runs: expected one split, came", ease, other)
    for argument, said in (
        ("metrics=[ndgc@10]", "metrics: expected some that all runs have (ndcg@10, recall@5), got ndgc@10"),
        ("metrics=[ndcg@10,ndcg@10]", "metrics: expected each name once, came 'ndcg@10' twice"),
        ("metrics=[]", "metrics: expected at least one name"),
        ("metrics=ndcg@10", "metrics: expected a list"),
        ("n_permutations=0", "n_permutations: expected a whole number of at least 1, came 0"),
        ("n_permutations=-5", "n_permutations: expected a whole number of at least 1, came -5"),
        ("seed=-1", "seed: expected a whole number of at least 0, came -1"),
        ("all_pairs=maybe", "all_pairs: expected true or false, came 'maybe'"),
    ):
        refused(["compare", vae, ease, argument], said)


# Files of histories for recommend and export


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("h.csv", b"", "h.csv is empty"),
        ("h.csv", b"user_id,item_id\n", "h.csv holds no histories"),
        ("h.csv", b"user_id,thing\n1,2\n", "h.csv: expected the columns user_id and item_id"),
        (
            "h.csv",
            b"user_id,item_id\n1,2\n1\n",
            "h.csv, line 3: expected 2 fields (user_id, item_id), found 1",
        ),
        ("h.csv", b"user_id,item_id\n1,2\n1,2,3\n", "h.csv, line 3: expected 2 fields"),
        ("h.csv", b"user_id,item_id\n1,2\n,3\n", "h.csv, line 3: the user id is empty"),
        ("h.csv", b"user_id,item_id\n1,2\n1,caf\xe9\n", "h.csv, line 3: byte 0xe9 is not utf-8"),
        ("h.csv", "user_id,item_id\n1,2\n".encode("utf-16"), "h.csv, line 1: byte 0xff is not utf-8"),
        ("h.csv", b"user_id,item_id,weight\n1,2,3\n1,3,x\n", "h.csv, line 3: weight 'x' is not a number"),
        ("h.csv", b"user_id,item_id,weight\n1,2,nan\n", "h.csv, line 2: weight 'nan' is not a finite number"),
        ("h.csv", b"user_id,item_id,weight\n1,2,inf\n", "h.csv, line 2: weight 'inf' is not a finite number"),
        ("h.csv", b"user_id,item_id,weight\n1,2,-1\n", "h.csv, line 2: expected a positive weight, came -1"),
        ("h.csv", gzip.compress(b"user_id,item_id\n1,2\n", mtime=0), "h.csv holds gzip data, not text"),
        ("h.parquet", b"", "h.parquet cannot be read"),
        ("h.parquet", b"user_id,item_id\n1,2\n", "h.parquet cannot be read"),
    ],
)
def test_a_file_of_histories_that_cannot_be_read(refused, runs, tmp_path, name, content, said) -> None:
    path = write(tmp_path / name, content)
    for verb in ("recommend", "export"):
        arguments = [verb, f"run={runs / 'vae'}", f"input={path}", "output=out.parquet"]
        refused(arguments, f"input: {tmp_path}", said)


# Output files


OUTPUTS = {
    "prepare": (["prepare", "dataset=tiny"], ".parquet"),
    "evaluate": (["evaluate", "run={vae}"], ".json"),
    "recommend a user": (["recommend", "run={vae}", "items=[1]"], ".csv"),
    "recommend a file": (["recommend", "run={vae}", "input={input}"], ".parquet"),
    "export": (["export", "run={vae}"], ".safetensors"),
    "compare": (["compare", "{vae}", "{ease}", "metrics=[ndcg@10]"], ".csv"),
}


@pytest.fixture
def writing(request, runs, tmp_path) -> tuple[list[str], str]:
    arguments, suffix = OUTPUTS[request.param]
    histories = write(tmp_path / "in.csv", "user_id,item_id\n1,2\n")
    places = {"vae": runs / "vae", "ease": runs / "ease", "input": histories}
    return [argument.format(**places) for argument in arguments], suffix


@pytest.mark.parametrize("writing", OUTPUTS, indirect=True)
def test_an_output_that_cannot_be(refused, tmp_path, writing) -> None:
    arguments, suffix = writing
    (tmp_path / f"folder{suffix}").mkdir()
    for output, said in (
        (f"none/x{suffix}", "output: expected an existing folder, none does not exist"),
        (f"{tmp_path}/folder{suffix}", "is a directory"),
        ("x.pickle", "output: expected a name ending in"),
        ("/dev/full", "output: expected a name ending in"),
    ):
        refused([*arguments, f"output={output}"], "output: expected", said)


def full_disk(*arguments: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("writing", OUTPUTS, indirect=True)
def test_no_space_left_for_an_output(refused, tmp_path, monkeypatch, writing) -> None:
    arguments, suffix = writing
    output = write(tmp_path / f"old{suffix}", "old")
    monkeypatch.setattr(os, "fsync", full_disk)
    refused([*arguments, f"output={output}"], f"output: no space left on the device while writing {output}")


@pytest.mark.parametrize("model", ["popularity", "mult_vae"])
def test_no_space_left_for_a_run(refused, monkeypatch, model) -> None:
    small = (
        ["model.latent_dim=2", "model.hidden_dims=[]", "trainer.max_epochs=1"] if model == "mult_vae" else []
    )
    monkeypatch.setattr(os, "fsync", full_disk)
    said = "run: no space left on the device while writing runs/"
    refused(["train", "dataset=tiny", f"model={model}", *small], said)


# The network


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.parametrize("verb", ["train", "prepare"])
def test_no_network(refused, tmp_path, monkeypatch, closed_port, verb) -> None:
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
    url = f"http://127.0.0.1:{closed_port}/x.zip"
    line = refused(
        [verb, "dataset=ml-100k", f"dataset.source={url}"], url, "download failed after 4 attempts"
    )
    assert "check the network, or give a copy of the archive with dataset.source=" in line


def test_an_archive_that_cannot_be(refused, tmp_path, good) -> None:
    for source, said in (
        (tmp_path / "none.zip", "expected a zip file, a folder or a URL, came nothing"),
        (good, "expected md5"),
        (tmp_path / "work", "expected u.data and u.item in this folder"),
    ):
        refused(["train", "dataset=ml-100k", f"dataset.source={source}"], f"dataset.source={source}", said)


# The command itself


def command(*arguments: str, cwd: Path, **options: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-W", "error", "-m", "recsys_vae", *arguments]
    return subprocess.run(line, cwd=cwd, stderr=subprocess.PIPE, text=True, check=False, **options)


@pytest.mark.end_to_end
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trian"], "'trian': unknown verb; did you mean 'train'?"),
        (
            ["train", "model=eas"],
            "model: came 'eas', expected one of bpmf, chow_liu, ",
        ),
        (["recommend", "run=none", "user=1"], "run: expected a run directory, none does not exist"),
    ],
)
def test_the_command_prints_one_line(tmp_path, arguments, said) -> None:
    ended = command(*arguments, cwd=tmp_path, stdout=subprocess.PIPE)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.startswith(f"recsys-vae: {said}")
    assert list(tmp_path.iterdir()) == []


INTERRUPTED_IMPORT = """
import sys

class Interrupts:
    def find_spec(self, name, *_):
        if name == sys.argv[1]:
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupts())
from recsys_vae.cli.main import main
sys.exit(main(["prepare", "dataset=tiny"]))
"""


@pytest.mark.end_to_end
@pytest.mark.parametrize("module", ["omegaconf", "recsys_vae.cli.config", "recsys_vae.cli.prepare"])
def test_an_interrupt_while_modules_load_is_one_line(module) -> None:
    # A process of its own: half-loaded modules would stay behind for the tests that follow.
    ended = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_IMPORT, module], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (130, "recsys-vae: interrupted\n")


@pytest.mark.end_to_end
@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files here")
def test_a_file_that_may_not_grow(tmp_path) -> None:
    """The kernel itself refuses the weights, 7200 bytes, in the middle."""
    import resource

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))

    arguments = ["train", "dataset=tiny", "model=ease", "run=new/run"]
    ended = command(*arguments, cwd=tmp_path, stdout=subprocess.PIPE, preexec_fn=limit)
    assert ended.returncode == 2
    said = "recsys-vae: run: the file is larger than the system allows while writing new/run.partial/"
    assert ended.stderr.splitlines()[-1].startswith(said)
    assert "Traceback" not in ended.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.end_to_end
@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no /dev/full here")
@pytest.mark.parametrize("arguments", [["--help"], ["prepare", "--help"], ["prepare", "dataset=tiny"]])
def test_a_terminal_that_takes_nothing(tmp_path, arguments) -> None:
    with Path("/dev/full").open("w") as full:
        ended = command(*arguments, cwd=tmp_path, stdout=full)
    assert ended.stderr.splitlines()[-1] == "recsys-vae: output: no space left on the device"
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
