"""Write a run directory so that it is whole under its final name, or lies beside it as NAME.partial."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from jaxtyping import Int, Shaped
from safetensors.torch import save_file
from scipy.sparse import csr_array
from torch import Tensor

from recsys_vae.atomic import atomic_path, explain_full_disk, fsync_directory
from recsys_vae.errors import UserError
from recsys_vae.exports.id_columns import ids_to_arrow, list_column
from recsys_vae.exports.run_manifest import write_manifest
from recsys_vae.exports.run_reader import PARTIAL_SUFFIX, read_epochs
from recsys_vae.interactions.file_lock import acquire_lock, release_lock
from recsys_vae.interactions.matrix import Split

_CHECKPOINT = "checkpoint"
_LOCK = ".lock"


class RunWriter:
    """Fills ``NAME.partial`` file by file; :meth:`finalize` seals it and renames it to ``NAME``.

    Used as a context manager, it gives up the lock on the way out. What an interrupted run left stays for
    ``resume=true``, unless it ended in a :class:`UserError` before its first checkpoint: then there is
    nothing to carry on and the directory is removed. One that was taken up with ``resume=true`` is never
    removed: the mistake may be in the command. Every writing method raises :class:`UserError` naming the file
    when the disk is full.
    """

    def __init__(
        self, path: Path, directory: Path, lock: int, made: Sequence[Path] = (), *, resumed: bool = False
    ) -> None:
        """Use :meth:`begin`; ``made`` are the folders that it made for the run, innermost first."""
        self.path = path
        self.directory = directory
        self._lock = lock
        self._made = made
        self._resumed = resumed

    @classmethod
    def begin(cls, path: str | Path, *, resume: bool = False) -> RunWriter:
        """Make ``NAME.partial``, or take up the one that is there, and lock it against other processes.

        Raises :class:`UserError` when ``path`` exists, when an unfinished run is there and ``resume`` is
        false (or none is and ``resume`` is true), when another process writes it, or when it cannot be made.
        """
        path = Path(path)
        if path.name in ("", ".."):
            raise UserError(f"run: expected a name for the run directory, came {str(path)!r}")
        if resume and path.name.endswith(PARTIAL_SUFFIX):
            path = path.with_name(path.name.removesuffix(PARTIAL_SUFFIX))
        if path.name.endswith(PARTIAL_SUFFIX):  # finished under such a name, no verb would open it
            raise UserError(
                f"run: expected a name that does not end in {PARTIAL_SUFFIX}, the mark of an unfinished run, "
                f"came {str(path)!r}"
            )
        partial = path.with_name(path.name + PARTIAL_SUFFIX)
        try:
            if path.exists():
                advice = (
                    "is finished, there is nothing to resume" if resume else "exists; choose another name"
                )
                raise UserError(f"run: {path} {advice}")
            if resume and not partial.is_dir():
                raise UserError(f"run: nothing to resume, {partial} does not exist")
            if partial.exists() and not resume:
                raise UserError(
                    f"run: {partial} holds an interrupted run; carry it on with resume=true, or remove it"
                )
            made = [folder for folder in path.parents if not folder.exists()]
            with explain_full_disk("run", partial):
                if not resume:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    partial.mkdir()
                lock = acquire_lock(partial / _LOCK)
        except BlockingIOError as error:
            raise UserError(f"run: {partial} is {error.strerror}") from error
        except OSError as error:
            raise UserError(f"run: {partial} cannot be written: {error.strerror}") from error
        writer = cls(path, partial, lock, made, resumed=resume)
        if resume:
            try:
                writer._mend()
            except BaseException:
                writer.close()
                raise
        return writer

    @property
    def checkpoint_directory(self) -> Path:
        """A folder for what only ``resume=true`` needs; it is not part of the finished run."""
        folder = self.directory / _CHECKPOINT
        folder.mkdir(exist_ok=True)
        return folder

    @property
    def log_path(self) -> Path:
        """Where the run's log belongs. Close it before :meth:`finalize`, which takes its checksum."""
        return self.directory / "log.txt"

    def write_config(self, config: Mapping[str, Any]) -> None:
        """``config.yaml``: the resolved configuration."""
        text = yaml.safe_dump(_plain(config), sort_keys=False, allow_unicode=True, width=100)
        self._write_text("config.yaml", text)

    def write_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """``model.safetensors``: dense tensors by name, moved to the CPU."""
        ready: dict[str, Tensor] = {}
        storages: set[int] = set()
        for name, tensor in tensors.items():
            value = tensor.detach().cpu().contiguous()
            # safetensors refuses tensors that share memory (tied weights, views); an own copy is as good.
            storage = value.untyped_storage()
            if storage.data_ptr() in storages or storage.nbytes() != value.nbytes:
                value = value.clone()
            storages.add(value.untyped_storage().data_ptr())
            ready[name] = value
        with self._file("model.safetensors") as temporary:
            # One entry of metadata: with two, the library writes them in a random order.
            save_file(ready, temporary, metadata={"format": "pt"})

    def write_items(
        self,
        item_ids: Shaped[np.ndarray, " items"],
        titles: Shaped[np.ndarray, " items"] | None = None,
        train_users: Int[np.ndarray, " items"] | None = None,
    ) -> None:
        """``items.parquet``: the item id, and the title if known, behind every column of the model.

        ``train_users`` says how many training users each item has; it is what the ranking by popularity, for
        somebody without a known item, is made from.
        """
        columns = {
            "item_index": pa.array(np.arange(len(item_ids)), pa.int32()),
            "item_id": ids_to_arrow(item_ids),
        }
        if titles is not None:
            columns["title"] = pa.array(titles, pa.string(), from_pandas=True)
        if train_users is not None:
            columns["train_users"] = pa.array(train_users, pa.int64())
        self._write_table("items.parquet", pa.table(columns))

    def write_users(self, split: Split) -> None:
        """``users.parquet``: one row for each user of each part, ``train``, ``validation`` and ``test``.

        History and target are lists of item indices; ``history_weight`` and ``target_weight`` run parallel to
        them when any interaction weighs other than 1. A split in time has the same user in several parts.
        """
        train, held_out = split.train.matrix, (split.validation, split.test)
        nothing = csr_array(train.shape, dtype=np.float32)
        parts: list[tuple[str, np.ndarray, Any, Any]] = [("train", split.train.user_ids, train, nothing)]
        parts += [
            (name, part.user_ids, part.history, part.target)
            for name, part in zip(("validation", "test"), held_out, strict=True)
        ]
        weighted = any(bool((matrix.data != 1).any()) for part in parts for matrix in part[2:])
        tables = []
        for name, user_ids, history, target in parts:
            columns = {"user_id": ids_to_arrow(user_ids), "part": pa.repeat(name, len(user_ids))}
            for side, matrix in (("history", history), ("target", target)):
                columns[side] = list_column(matrix.indptr, matrix.indices.astype(np.int32))
                if weighted:
                    columns[f"{side}_weight"] = list_column(matrix.indptr, matrix.data.astype(np.float32))
            tables.append(pa.table(columns))
        self._write_table("users.parquet", pa.concat_tables(tables))

    def write_split(self, manifest: Mapping[str, Any], sha256: str) -> None:
        """``split.json``: the split's record and its digest, by which two runs are known to be comparable."""
        self._write_json("split.json", {**manifest, "sha256": sha256})

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        """``metrics.json``; NaN, which JSON lacks, becomes null."""
        self._write_json("metrics.json", metrics)

    def write_per_user(self, frame: pd.DataFrame) -> None:
        """``per_user.parquet``: one row an evaluated user, one column a metric."""
        self._write_table("per_user.parquet", pa.Table.from_pandas(frame, preserve_index=False))

    def write_report(self, html: str) -> None:
        """``report.html``."""
        self._write_text("report.html", html)

    def write_history(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append to ``history.csv``, one row an epoch, flushed to the disk before this returns.

        Every row has the column ``epoch`` and the columns of the rows before it; otherwise ``ValueError``.
        """
        if not rows:
            return
        path = self.directory / "history.csv"
        is_new = not path.exists()
        columns = list(rows[0]) if is_new else _read_header(path)
        if "epoch" not in columns or any(list(row) != columns for row in rows):
            raise ValueError(
                f"history rows: expected the columns {columns} with an epoch, came {list(rows[-1])}"
            )
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows(
            [*([columns] if is_new else []), *([_cell(row[name]) for name in columns] for row in rows)]
        )
        with explain_full_disk("run", path), path.open("a", encoding="utf-8", newline="") as file:
            file.write(text.getvalue())
            file.flush()
            os.fsync(file.fileno())

    def read_history(self) -> pd.DataFrame | None:
        """The rows so far, or ``None`` when there are none."""
        path = self.directory / "history.csv"
        return read_epochs(path) if path.exists() else None

    def truncate_history(self, last_epoch: int | None = None) -> None:
        """Drop the rows after ``last_epoch``, that of the checkpoint which a resumed run goes on from.

        A last line that was cut short when the run was killed goes too; ``None`` drops nothing else.
        Raises :class:`UserError` naming the file when it is damaged in another way.
        """
        path = self.directory / "history.csv"
        if not path.exists():
            return
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"run: {path} cannot be read: {error}") from error
        lines = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
        if not lines:
            path.unlink()
            return
        try:
            column = next(csv.reader(lines[:1])).index("epoch")
            epochs = [int(row[column]) for row in csv.reader(lines[1:])]
        except (ValueError, IndexError, csv.Error) as error:
            raise UserError(f"run: {path} cannot be read: expected rows with an epoch ({error})") from error
        if last_epoch is not None:
            kept = [row for row, epoch in zip(lines[1:], epochs, strict=True) if epoch <= last_epoch]
            lines[1:] = kept
        self._write_text("history.csv", "".join(lines))

    def finalize(self) -> Path:
        """Seal the run, rename it to its final name and return that.

        The order is such that a kill at any moment leaves either a partial run that can be resumed, its
        checkpoint still there, or a whole one.
        """
        with explain_full_disk("run", self.directory):
            write_manifest(self.directory, leave_out=(_CHECKPOINT, _LOCK))
        try:
            self.directory.rename(self.path)
        except OSError as error:
            raise UserError(f"run: {self.path} cannot take its final name: {error.strerror}") from error
        fsync_directory(self.path.parent)
        shutil.rmtree(self.path / _CHECKPOINT, ignore_errors=True)
        (self.path / _LOCK).unlink(missing_ok=True)
        self.close()
        return self.path

    def close(self) -> None:
        """Give up the lock; an unfinished run stays where it is."""
        release_lock(self._lock)

    def discard(self) -> None:
        """Remove the unfinished run, and the folders that were made for it if nothing else is in them."""
        shutil.rmtree(self.directory, ignore_errors=True)
        with contextlib.suppress(OSError):
            for folder in self._made:
                folder.rmdir()
        self.close()

    def __enter__(self) -> RunWriter:
        """Hold the lock."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of the lock, and of a directory that nobody could resume."""
        checkpoint = self.directory / _CHECKPOINT
        started = checkpoint.is_dir() and any(checkpoint.iterdir())
        if isinstance(error, UserError) and not started and not self._resumed:
            self.discard()
        self.close()

    def _mend(self) -> None:
        """Clear away what a kill in the middle of a write left behind."""
        for entry in self.directory.glob(".*"):
            if entry.name != _LOCK and entry.is_file():
                entry.unlink()
        self.truncate_history()

    @contextlib.contextmanager
    def _file(self, name: str) -> Iterator[Path]:
        target = self.directory / name
        with explain_full_disk("run", target), atomic_path(target) as temporary:
            yield temporary

    def _write_text(self, name: str, text: str) -> None:
        with self._file(name) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")

    def _write_json(self, name: str, value: Mapping[str, Any]) -> None:
        self._write_text(
            name, json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        )

    def _write_table(self, name: str, table: pa.Table) -> None:
        with self._file(name) as temporary:
            pq.write_table(table, temporary, compression="zstd")


def _read_header(path: Path) -> list[str]:
    with path.open(encoding="utf-8", newline="") as file:
        return next(csv.reader(file))


def _cell(value: Any) -> Any:
    """NaN and None become an empty cell, which reads back as NaN; a float keeps every digit."""
    value = _plain(value)
    return "" if value is None else value


def _plain(value: Any) -> Any:
    """The same in the types that JSON and YAML share."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray | np.generic | Tensor):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)
