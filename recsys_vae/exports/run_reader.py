"""Open a finished run directory, trusting nothing that its manifest does not vouch for."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import yaml
from jaxtyping import Shaped
from safetensors import SafetensorError
from safetensors.torch import load_file
from scipy.sparse import csr_array
from torch import Tensor

from recsys_vae.errors import UserError
from recsys_vae.exports.id_columns import ids_from_arrow, list_offsets
from recsys_vae.exports.run_manifest import MANIFEST, verify_manifest
from recsys_vae.interactions.matrix import HeldOut

PARTIAL_SUFFIX = ".partial"


@dataclass(frozen=True)
class Run:
    """A finished run. The small records are read at once, the tables and weights when first asked for."""

    path: Path
    manifest: dict[str, Any]
    config: dict[str, Any]
    split: dict[str, Any]
    metrics: dict[str, Any]

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """The model's ``state_dict``, on the CPU."""
        with _readable(self.path / "model.safetensors") as file:
            return dict(load_file(file))

    @cached_property
    def items(self) -> pd.DataFrame:
        """``item_index``, ``item_id``, ``title`` (``None`` where unknown; the column may be absent)."""
        with _readable(self.path / "items.parquet") as file:
            return _frame(pq.read_table(file))

    @property
    def item_ids(self) -> Shaped[np.ndarray, " items"]:
        """Id of every item index: int64, or an object array of ``str``."""
        return self.items["item_id"].to_numpy()

    @property
    def titles(self) -> Shaped[np.ndarray, " items"] | None:
        """Title of every item index, or ``None`` when the dataset has none."""
        return self.items["title"].to_numpy() if "title" in self.items else None

    @cached_property
    def users(self) -> pd.DataFrame | None:
        """``user_id``, ``part``, ``history``, ``target`` (item indices); ``None`` if none were kept."""
        return None if self._user_table is None else _frame(self._user_table)

    def held_out(self, part: str | None = None) -> HeldOut | None:
        """Histories and targets of ``"train"``, ``"validation"``, ``"test"``, or of everyone, as CSR arrays.

        Training users have empty targets. ``None`` if the run kept no histories.
        """
        table = self._user_table
        if table is None:
            return None
        if part is not None:
            table = table.filter(pc.equal(table.column("part"), part))
        table = table.combine_chunks()
        history, target = (self._matrix(table, name) for name in ("history", "target"))
        return HeldOut(ids_from_arrow(table.column("user_id")), history, target)

    @cached_property
    def per_user(self) -> pd.DataFrame | None:
        """One row an evaluated user, one column a metric; ``None`` when the run holds no such table."""
        if "per_user.parquet" not in self.manifest["files"]:
            return None
        with _readable(self.path / "per_user.parquet") as file:
            return _frame(pq.read_table(file))

    @cached_property
    def history(self) -> pd.DataFrame:
        """One row an epoch; empty for a model that is fitted in closed form."""
        if "history.csv" not in self.manifest["files"]:
            return pd.DataFrame()
        with _readable(self.path / "history.csv") as file:
            return read_epochs(file)

    @cached_property
    def _user_table(self) -> pa.Table | None:
        if "users.parquet" not in self.manifest["files"]:
            return None
        with _readable(self.path / "users.parquet") as file:
            return pq.read_table(file)

    def _matrix(self, table: pa.Table, name: str) -> csr_array:
        lists = _one_chunk(table.column(name))
        indices = lists.flatten().to_numpy()
        data = np.ones(len(indices), dtype=np.float32)
        if f"{name}_weight" in table.column_names:
            data = _one_chunk(table.column(f"{name}_weight")).flatten().to_numpy()
        return csr_array((data, indices, list_offsets(lists)), shape=(table.num_rows, len(self.items)))


def read_run(path: str | Path) -> Run:
    """Open the run directory ``path`` after verifying the size and SHA-256 of every file that it lists.

    Raises :class:`UserError` naming the file when the directory is missing, unfinished, of another format
    version, incomplete, truncated, changed in any byte, or not readable.
    """
    directory = Path(path)
    partial = directory.parent / (directory.name + PARTIAL_SUFFIX)  # with_name refuses "."
    if directory.name.endswith(PARTIAL_SUFFIX) and directory.is_dir():
        final = directory.with_name(directory.name.removesuffix(PARTIAL_SUFFIX))
        raise UserError(f"run: {directory} is unfinished; carry it on with run={final} resume=true")
    if not directory.exists() and partial.is_dir():
        raise UserError(f"run: {directory} is unfinished ({partial}); carry it on with resume=true")
    if not directory.exists():
        raise UserError(f"run: expected a run directory, {directory} does not exist")
    if not directory.is_dir():
        raise UserError(f"run: expected a run directory, {directory} is a file")
    if not (directory / MANIFEST).is_file():
        raise UserError(f"run: expected a run directory, {directory} has no {MANIFEST}")
    manifest = verify_manifest(directory)
    for name in ("config.yaml", "split.json", "metrics.json", "items.parquet", "model.safetensors"):
        if name not in manifest["files"]:
            raise UserError(f"run: {directory / MANIFEST} does not list {name}")
    return Run(
        path=directory,
        manifest=manifest,
        config=_mapping(directory / "config.yaml", yaml.safe_load),
        split=_mapping(directory / "split.json", json.loads),
        metrics=_mapping(directory / "metrics.json", json.loads),
    )


def read_epochs(path: Path) -> pd.DataFrame:
    """``history.csv``, one row an epoch; empty columns read as NaN."""
    # Arrow's parser gives every float back exactly, on every version of pandas.
    table = pacsv.read_csv(path)
    return pd.DataFrame({name: _numbers(table.column(name)) for name in table.column_names})


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[Path]:
    try:
        yield path
    except (OSError, ValueError, pa.ArrowException, SafetensorError, yaml.YAMLError, RecursionError) as error:
        raise UserError(f"run: {path} cannot be read: {error}") from error


def _mapping(path: Path, parse: Any) -> dict[str, Any]:
    with _readable(path) as file:
        value = parse(file.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError(f"expected a mapping, came {type(value).__name__}")
        return value


def _frame(table: pa.Table) -> pd.DataFrame:
    """Strings stay Python objects on every pandas version: ids are looked up by equality."""
    columns = {}
    for name in table.column_names:
        column = table.column(name)
        is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
        columns[name] = pd.Series(ids_from_arrow(column), dtype=object) if is_text else column.to_pandas()
    return pd.DataFrame(columns)


def _numbers(column: Any) -> Any:
    """A column of empty cells only is NaN, like any other empty cell."""
    return (column.cast(pa.float64()) if pa.types.is_null(column.type) else column).to_pandas()


def _one_chunk(column: Any) -> Any:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
