from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from made_up_run import make_split, write_run
from safetensors import SafetensorError

from recsys_vae import atomic
from recsys_vae.atomic import explain_full_disk
from recsys_vae.errors import UserError
from recsys_vae.exports.run_directory import RunWriter, read_run


def test_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=r"^run: .*run exists; choose another name$"):
        RunWriter.begin(tmp_path / "run")
    with pytest.raises(UserError, match="is finished, there is nothing to resume"):
        RunWriter.begin(tmp_path / "run", resume=True)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_interrupted_run_asks_for_resume(tmp_path: Path) -> None:
    RunWriter.begin(tmp_path / "run").close()
    with pytest.raises(UserError, match="resume=true, or remove it"):
        RunWriter.begin(tmp_path / "run")
    for name in ("run", "run.partial"):
        writer = RunWriter.begin(tmp_path / name, resume=True)
        assert (writer.path, writer.directory) == (tmp_path / "run", tmp_path / "run.partial")
        writer.close()


def test_nothing_to_resume_is_an_error_and_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run: nothing to resume, "):
        RunWriter.begin(tmp_path / "new" / "run", resume=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", ".", "..", "file/run", "file/deeper/run"])
def test_a_place_that_cannot_be_is_an_error(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    with pytest.raises(UserError, match=r"^run: "):
        RunWriter.begin(name)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_two_writers_cannot_share_a_run(tmp_path: Path) -> None:
    writer = RunWriter.begin(tmp_path / "run")
    with pytest.raises(UserError, match=rf"another process \(pid {os.getpid()}\)"):
        RunWriter.begin(tmp_path / "run", resume=True)
    writer.close()
    RunWriter.begin(tmp_path / "run", resume=True).close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_killed_process_leaves_a_partial_run_that_can_be_resumed(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    run = tmp_path / "run"
    script = (
        "import os, time\n"
        "from recsys_vae.exports.run_writer import RunWriter\n"
        f"w = RunWriter.begin({str(run)!r})\n"
        "w.write_config({'seed': 1})\n"
        "w.write_history([{'epoch': e, 'loss': 1.0} for e in range(5)])\n"
        "(w.checkpoint_directory / 'last.ckpt').write_text('state of epoch 2')\n"
        "with w._file('model.safetensors') as half:\n"
        "    half.write_text('half')\n"
        "    worker = os.fork()\n"  # outlives its parent, as a data-loading worker may
        "    if worker == 0: os.close(1)\n"
        "    else: print(worker, flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        with pytest.raises(UserError, match=f"pid {process.pid}"):
            RunWriter.begin(run, resume=True)
        process.kill()
    request.addfinalizer(lambda: os.kill(worker, signal.SIGKILL))
    assert not run.exists()
    with (tmp_path / "run.partial" / "history.csv").open("a") as file:
        file.write("5,1.")  # the row that was being written
    with RunWriter.begin(run, resume=True) as writer:
        left = {path.name for path in writer.directory.iterdir()}
        assert left == {".lock", "checkpoint", "config.yaml", "history.csv"}
        assert (writer.checkpoint_directory / "last.ckpt").read_text() == "state of epoch 2"
        writer.truncate_history(2)
        writer.write_history([{"epoch": 3, "loss": 2.0}])
    text = (tmp_path / "run.partial" / "history.csv").read_text()
    assert text == "epoch,loss\n0,1.0\n1,1.0\n2,1.0\n3,2.0\n"


@pytest.mark.parametrize("torn", ["", "epo", "epoch,loss"])
def test_a_torn_header_is_dropped(tmp_path: Path, torn: str) -> None:
    RunWriter.begin(tmp_path / "run").close()
    (tmp_path / "run.partial" / "history.csv").write_text(torn)
    with RunWriter.begin(tmp_path / "run", resume=True) as writer:
        writer.write_history([{"epoch": 0, "x": 1}])
        assert (writer.directory / "history.csv").read_text() == "epoch,x\n0,1\n"


def test_history_rows_must_agree(tmp_path: Path) -> None:
    with RunWriter.begin(tmp_path / "run") as writer:
        writer.write_history([])
        with pytest.raises(ValueError, match="epoch"):
            writer.write_history([{"loss": 1.0}])
        writer.write_history([{"epoch": 0, "loss": 1.0}])
        for row in ({"epoch": 1}, {"loss": 1.0, "epoch": 1}, {"epoch": 1, "loss": 1.0, "more": 2}):
            with pytest.raises(ValueError, match="history rows"):
                writer.write_history([row])


@pytest.mark.parametrize("moment", ["manifest", "rename", "cleanup"])
def test_a_kill_while_finishing_leaves_a_resumable_or_a_whole_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    class Killed(BaseException):
        pass

    def kill(*arguments: Any, **options: Any) -> None:
        raise Killed

    module = "recsys_vae.exports.run_writer."
    target = {
        "manifest": module + "write_manifest",
        "rename": "pathlib.Path.rename",
        "cleanup": module + "shutil.rmtree",
    }
    monkeypatch.setattr(target[moment], kill)
    with pytest.raises(Killed):
        write_run(tmp_path / "run")
    monkeypatch.undo()
    if moment == "cleanup":
        assert read_run(tmp_path / "run").config["seed"] == 3
        return
    assert not (tmp_path / "run").exists()
    with RunWriter.begin(tmp_path / "run", resume=True) as writer:
        assert (writer.checkpoint_directory / "last.ckpt").read_bytes() == b"state"
        assert writer.finalize() == tmp_path / "run"
    assert "checkpoint/last.ckpt" not in read_run(tmp_path / "run").manifest["files"]
    assert not (tmp_path / "run" / "checkpoint").exists()


def test_a_users_mistake_before_the_first_checkpoint_leaves_nothing(tmp_path: Path) -> None:
    def fail(error: Exception, *, resume: bool = False, checkpoint: bool = False) -> None:
        with RunWriter.begin(tmp_path / "run", resume=resume) as writer:
            writer.write_config({})
            if checkpoint:
                (writer.checkpoint_directory / "last.ckpt").write_text("worth keeping")
            raise error

    with pytest.raises(UserError, match="bad"):
        fail(UserError("bad"))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyError):
        fail(KeyError("a fault of the program"))
    assert (tmp_path / "run.partial" / "config.yaml").exists()
    with pytest.raises(UserError, match="bad"):
        fail(UserError("bad"), resume=True, checkpoint=True)
    assert (tmp_path / "run.partial" / "checkpoint" / "last.ckpt").exists()


def test_a_name_taken_meanwhile_is_an_error(tmp_path: Path) -> None:
    writer = RunWriter.begin(tmp_path / "run")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "other").write_text("")
    with pytest.raises(UserError, match="cannot take its final name"):
        writer.finalize()
    writer.close()


WRITES: dict[str, Callable[[RunWriter], None]] = {
    "config.yaml": lambda run: run.write_config({}),
    "model.safetensors": lambda run: run.write_weights({"w": torch.ones(2)}),
    "items.parquet": lambda run: run.write_items(np.arange(3)),
    "users.parquet": lambda run: run.write_users(make_split()),
    "split.json": lambda run: run.write_split({}, ""),
    "metrics.json": lambda run: run.write_metrics({}),
    "per_user.parquet": lambda run: run.write_per_user(pd.DataFrame({"a": [1]})),
    "report.html": lambda run: run.write_report(""),
    "history.csv": lambda run: run.write_history([{"epoch": 1}]),
    "run.partial": lambda run: run.finalize() and None,
}


@pytest.mark.parametrize("name", WRITES)
def test_a_full_disk_is_one_line_naming_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with RunWriter.begin(tmp_path / "run") as writer:
        monkeypatch.setattr(atomic, "fsync_file", full)
        monkeypatch.setattr("os.fsync", full)
        with pytest.raises(UserError, match=rf"^run: no space left on the device while writing .*{name}$"):
            WRITES[name](writer)
        monkeypatch.undo()
        assert not (writer.directory / name).exists() or name == "history.csv"
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no /dev/full here")
def test_arrows_own_complaint_about_a_full_disk_is_understood() -> None:
    table = pa.table({"a": np.random.default_rng(0).random(100_000)})

    def write() -> None:
        with explain_full_disk("output", "x"), Path("/dev/full").open("wb") as file:
            pq.write_table(table, file)

    with pytest.raises(UserError, match=r"^output: no space left on the device while writing x$"):
        write()


def test_safetensors_complaint_is_understood_and_others_pass() -> None:
    told = "Error while serializing: I/O error: No space left on device (os error 28)"
    with pytest.raises(UserError, match="no space left"), explain_full_disk("output", "x"):
        raise SafetensorError(told)
    for error in (SafetensorError("header too large"), OSError(errno.EACCES, "denied"), KeyError("k")):
        with pytest.raises(type(error)), explain_full_disk("output", "x"):
            raise error


@pytest.mark.skipif(sys.platform == "win32", reason="no resource limits here")
def test_a_file_size_limit_in_the_middle_of_the_weights(tmp_path: Path) -> None:
    script = (
        "import resource, torch\n"
        "from recsys_vae.errors import UserError\n"
        "from recsys_vae.exports.run_writer import RunWriter\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "try:\n"
        f"    with RunWriter.begin({str(tmp_path / 'run')!r}) as w:\n"
        "        w.write_config({})\n"
        "        w.write_weights({'w': torch.ones(100, 100)})\n"
        "except UserError as e: print(e)\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    assert told.startswith("run: the file is larger than the system allows while writing ")
    assert list(tmp_path.iterdir()) == []


def test_the_clock_is_not_in_the_files(tmp_path: Path) -> None:
    write_run(tmp_path / "a")
    time.sleep(0.01)
    write_run(tmp_path / "b")
    a, b = (read_run(tmp_path / name).manifest for name in "ab")
    assert a == b
