from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up_run import TITLES, make_split

from recsys_vae.errors import UserError
from recsys_vae.exports.run_directory import (
    RunWriter,
    check_target,
    check_targets,
    default_run_path,
    read_run,
)
from recsys_vae.interactions.matrix import HeldOut

FILES = [
    "config.yaml",
    "history.csv",
    "items.parquet",
    "log.txt",
    "manifest.json",
    "metrics.json",
    "model.safetensors",
    "per_user.parquet",
    "report.html",
    "split.json",
    "users.parquet",
]


@pytest.fixture
def copied_run(finished_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished_run, tmp_path / "copy")


def refused(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_run(path)
    message = str(caught.value)
    assert message.startswith("run: ")
    assert "\n" not in message
    return message


def test_holds_exactly_the_files_of_the_design(finished_run: Path) -> None:
    assert sorted(path.name for path in finished_run.iterdir()) == FILES
    assert [path.name for path in finished_run.parent.iterdir()] == [finished_run.name]


def test_reads_back_what_was_written_after_a_move(copied_run: Path) -> None:
    run = read_run(copied_run)
    assert run.config == {"seed": 3, "model": {"_target_": "recsys_vae.models.mult_vae.MultVAE"}}
    assert run.split == {"name": "strong_generalisation", "seed": 3, "sha256": "ab" * 32}
    assert run.metrics == {"test": {"ndcg@100": {"mean": 0.25, "stderr": None}}}
    assert run.tensors.keys() == {"w", "b"}
    assert torch.equal(run.tensors["w"], torch.arange(6.0).reshape(2, 3))
    assert run.tensors["b"].dtype == torch.bfloat16
    assert run.item_ids.tolist() == [2**53 + 1, -7, 0, 5, 9]
    assert run.titles is not None
    assert run.titles.tolist() == TITLES
    assert run.items["item_index"].tolist() == [0, 1, 2, 3, 4]
    assert run.history["loss"].tolist() == [0.1 + 0.2, 1e-17]
    assert run.history["validation ndcg@100"].isna().tolist() == [True, False]
    assert run.per_user is not None
    assert run.per_user["user_id"].tolist() == ["e", "ü"]


def test_users_keep_their_part_history_and_target(finished_run: Path) -> None:
    users = read_run(finished_run).users
    assert users is not None
    assert users["user_id"].tolist() == ["a", "b", "c", "d", "e", "ü"]
    assert users["part"].tolist() == ["train"] * 3 + ["validation"] + ["test"] * 2
    assert [list(row) for row in users["history"]] == [[0, 1, 2], [1, 3], [0, 4], [0, 2], [1], []]
    assert [list(row) for row in users["target"]] == [[], [], [], [3], [0, 4], [2]]
    assert "history_weight" not in users


def test_held_out_gives_the_split_back(finished_run: Path) -> None:
    run, split = read_run(finished_run), make_split()
    for part, expected in (("validation", split.validation), ("test", split.test)):
        came = run.held_out(part)
        assert came is not None
        assert came.user_ids.tolist() == expected.user_ids.tolist()
        assert came.history.shape == expected.history.shape
        assert (came.history != expected.history).nnz == 0
        assert (came.target != expected.target).nnz == 0
    everyone = run.held_out()
    assert everyone is not None
    assert everyone.history.shape == (6, 5)
    nobody = run.held_out("no such part")
    assert nobody is not None
    assert nobody.history.shape == (0, 5)


def test_weights_of_interactions_survive(tmp_path: Path) -> None:
    split = make_split()
    split.test.history.data[:] = 2.5
    writer = RunWriter.begin(tmp_path / "run")
    writer.write_config({})
    writer.write_weights({"w": torch.ones(1)})
    writer.write_items(split.train.item_ids)
    writer.write_users(split)
    writer.write_split({}, "")
    writer.write_metrics({})
    run = read_run(writer.finalize())
    came: HeldOut | None = run.held_out("test")
    assert came is not None
    assert came.history.data.tolist() == [2.5]
    assert came.target.data.tolist() == [1, 1, 1]
    assert run.titles is None
    assert run.history.empty
    assert run.per_user is None


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("where", ["first", "middle", "last"])
def test_one_changed_byte_is_caught_in_every_file(copied_run: Path, name: str, where: str) -> None:
    path = copied_run / name
    content = bytearray(path.read_bytes())
    content[{"first": 0, "middle": len(content) // 2, "last": len(content) - 1}[where]] ^= 1
    path.write_bytes(content)
    assert name in refused(copied_run)


def test_any_changed_byte_of_the_manifest_is_caught(copied_run: Path) -> None:
    path = copied_run / "manifest.json"
    content = path.read_bytes()
    for position in range(0, len(content), 7):
        path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        refused(copied_run)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_or_truncated_file_is_named(copied_run: Path, name: str) -> None:
    path = copied_run / name
    path.write_bytes(path.read_bytes()[:-1])
    message = refused(copied_run)
    assert name in message
    assert name == "manifest.json" or "truncated" in message
    path.unlink()
    message = refused(copied_run)
    assert name in message


def test_a_longer_file_is_named(copied_run: Path) -> None:
    with (copied_run / "log.txt").open("a") as file:
        file.write("more\n")
    assert "log.txt is longer" in refused(copied_run)


def test_another_format_version_says_which_it_reads(copied_run: Path) -> None:
    path = copied_run / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 2}))
    assert "reads run format 1, came format 2" in refused(copied_run)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"{", b"\xff\xfe", b"null", b"[" * 100_000])
def test_an_unreadable_manifest_is_an_error(copied_run: Path, content: bytes) -> None:
    (copied_run / "manifest.json").write_bytes(content)
    assert "manifest.json" in refused(copied_run)


def test_a_manifest_cannot_point_outside_the_run(copied_run: Path) -> None:
    from recsys_vae.exports import run_manifest

    path = copied_run / "manifest.json"
    record = json.loads(path.read_text())
    del record["sha256"]
    record["files"]["../outside"] = {"sha256": "", "bytes": 0}
    path.write_text(run_manifest._render({**record, "sha256": run_manifest._digest(record)}))
    assert "inside the run" in refused(copied_run)


def test_what_is_no_run_directory_is_named(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    assert "is a file" in refused(tmp_path / "file")
    (tmp_path / "folder").mkdir()
    assert "has no manifest.json" in refused(tmp_path / "folder")


def test_an_unfinished_run_says_how_to_carry_on(tmp_path: Path) -> None:
    RunWriter.begin(tmp_path / "run").close()
    assert "resume=true" in refused(tmp_path / "run")
    assert f"run={tmp_path / 'run'} resume=true" in refused(tmp_path / "run.partial")


def test_files_that_lie_are_an_error_when_they_are_read(copied_run: Path) -> None:
    from recsys_vae.exports.run_manifest import write_manifest

    for name in FILES:
        if name.endswith((".parquet", ".safetensors")):
            (copied_run / name).write_bytes(b"nonsense")
    (copied_run / "history.csv").write_bytes(b"")
    write_manifest(copied_run, leave_out=())
    run = read_run(copied_run)
    for attribute in ("tensors", "items", "users", "per_user", "history"):
        with pytest.raises(UserError, match=r"run: .* cannot be read"):
            getattr(run, attribute)
    for text in ("[1]", "!!python/object/apply:os.getcwd []", "a: [", ""):
        (copied_run / "config.yaml").write_text(text)
        write_manifest(copied_run, leave_out=())
        assert "config.yaml" in refused(copied_run)


def test_default_names_avoid_finished_and_unfinished_runs(tmp_path: Path) -> None:
    assert default_run_path(tmp_path, "ease", "ml-1m", 1) == tmp_path / "ml-1m-ease-seed1"
    (tmp_path / "ml-1m-ease-seed1").mkdir()
    (tmp_path / "ml-1m-ease-seed1-2.partial").mkdir()
    assert default_run_path(tmp_path, "ease", "ml-1m", 1) == tmp_path / "ml-1m-ease-seed1-3"
    assert default_run_path(tmp_path, "ease", "my data/x.csv", 1).name == "my-data-x.csv-ease-seed1"


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "recsys_vae.models",
        "recsys_vae.models.linear_autoencoder",
        "recsys_vae.models.linear_autoencoder.np.load",
        "recsys_vae.models.linear_autoencoder.UserError",
        "recsys_vae.models.linear_autoencoder.np",
        "recsys_vae.models.linear_autoencoder.__name__",
        "recsys_vae.models.nothing.Model",
        "recsys_vae.models.linear_autoencoder.Nothing",
        "recsys_vae.models..ease.EASE",
        "recsys_vae.modelsx.ease.EASE",
        "recsys_vae.models.linear_autoencoder.EASE\n",
    ],
)
def test_a_run_cannot_name_code_outside_the_models(target: str) -> None:
    with pytest.raises(UserError, match=r"run: config\.yaml"):
        check_target(target)
    with pytest.raises(UserError):
        check_targets({"deep": [{"_target_": target}]})


def test_a_model_class_is_admitted() -> None:
    check_target("recsys_vae.models.mult_vae.MultVAE")
    check_targets({"_target_": "recsys_vae.models.mult_vae.MultVAE", "hidden_dims": [600], "x": None})
    with pytest.raises(UserError, match="resolved"):
        check_targets({"latent_dim": "${oc.env:HOME}"})


def test_shared_and_strided_tensors_are_written_whole(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    tensors = {"a": base, "same": base, "row": base[1], "turned": base.T, "empty": torch.empty(0, 3)}
    writer = RunWriter.begin(tmp_path / "run")
    writer.write_weights(tensors)
    from safetensors.torch import load_file

    came = load_file(writer.directory / "model.safetensors")
    assert came.keys() == tensors.keys()
    assert all(torch.equal(came[name], value) for name, value in tensors.items())
    writer.discard()
    assert list(tmp_path.iterdir()) == []
    assert np.array_equal(base.numpy().ravel(), np.arange(12.0))
