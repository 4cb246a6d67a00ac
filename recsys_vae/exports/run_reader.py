"""Open a finished run directory, trusting nothing that its manifest does not vouch for."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
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
            table = pq.read_table(file)
            _check_items(table)
            return _frame(table)

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
            table = pq.read_table(file)
            _check_per_user(table)
            return _frame(table)

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
        n_items = len(self.items)
        with _readable(self.path / "users.parquet") as file:
            table = pq.read_table(file)
            _check_users(table, n_items)
            return table

    def _matrix(self, table: pa.Table, name: str) -> csr_array:
        lists = _one_chunk(table.column(name))
        indices = lists.flatten().cast(pa.int32()).to_numpy()
        data = np.ones(len(indices), dtype=np.float32)
        if f"{name}_weight" in table.column_names:
            data = _one_chunk(table.column(f"{name}_weight")).flatten().cast(pa.float32()).to_numpy()
        return csr_array((data, indices, list_offsets(lists)), shape=(table.num_rows, len(self.items)))


def read_run(path: str | Path | None) -> Run:
    """Open the run directory ``path`` after verifying the size and SHA-256 of every file that it lists.

    Raises :class:`UserError` naming the file when the directory is missing, unfinished, of another format
    version, incomplete, truncated, changed in any byte, or not readable.
    """
    if path is None:
        raise UserError("run: expected a run directory, came null")
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
    split = _mapping(directory / "split.json", json.loads)
    if not isinstance(split.get("sha256"), str):
        raise UserError(
            f"run: {directory / 'split.json'} cannot be read: expected the split's sha256, "
            f"came {split.get('sha256')!r}"
        )
    return Run(
        path=directory,
        manifest=manifest,
        config=_mapping(directory / "config.yaml", yaml.safe_load),
        split=split,
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


# Sums vouch that a file is what was written, not that what was written makes sense: an index outside the
# catalogue would have compiled code read outside its arrays. These raise ValueError, which _readable tells.


def _check_items(table: pa.Table) -> None:
    _check_ids(table, "item_id")
    ids = table.column("item_id")
    if pc.count_distinct(ids).as_py() != len(ids):
        raise ValueError("expected every item_id once, came one twice")
    if "item_index" in table.column_names:
        _check_kind(table, "item_index", pa.types.is_integer, "whole numbers")
        if not np.array_equal(table.column("item_index").to_numpy(), np.arange(table.num_rows)):
            raise ValueError("expected item_index from 0 in steps of 1")
    if "title" in table.column_names:
        kind = table.schema.field("title").type
        if not (_is_text(kind) or pa.types.is_null(kind)):
            raise ValueError(f"expected text as title, came {kind}")
    if "train_users" in table.column_names:
        _check_kind(table, "train_users", pa.types.is_integer, "whole numbers")


def _check_users(table: pa.Table, n_items: int) -> None:
    _check_ids(table, "user_id")
    _check_kind(table, "part", _is_text, "text")
    for side in ("history", "target"):
        indices = _flat_lists(table, side, pa.types.is_integer, "whole numbers")
        bounds = pc.min_max(indices).as_py()
        for index in (bounds["min"], bounds["max"]):
            if index is not None and not 0 <= index < n_items:
                raise ValueError(f"expected item indices from 0 to {n_items - 1} in {side}, came {index}")
        name = f"{side}_weight"
        if name in table.column_names:
            weights = _flat_lists(table, name, pa.types.is_floating, "numbers")
            if not pc.all(pc.is_finite(weights), min_count=0).as_py():
                raise ValueError(f"expected finite numbers in {name}")
            lengths = [pc.list_value_length(table.column(column)).fill_null(0) for column in (side, name)]
            if not lengths[0].cast(pa.int64()).equals(lengths[1].cast(pa.int64())):
                raise ValueError(f"expected as many weights in {name} as items in {side}")


def _check_per_user(table: pa.Table) -> None:
    _check_ids(table, "user_id")
    for field in table.schema:
        is_number = pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
        if field.name != "user_id" and not (is_number or pa.types.is_null(field.type)):
            raise ValueError(f"expected numbers as {field.name}, came {field.type}")


def _check_ids(table: pa.Table, name: str) -> None:
    _check_kind(
        table, name, lambda kind: pa.types.is_integer(kind) or _is_text(kind), "whole numbers or text"
    )


def _check_kind(table: pa.Table, name: str, is_kind: Callable[[Any], bool], expected: str) -> None:
    _check_column(table, name)
    column = table.column(name)
    if not is_kind(column.type):
        raise ValueError(f"expected {expected} as {name}, came {column.type}")
    if column.null_count:
        raise ValueError(f"expected {expected} as {name}, came nothing in {column.null_count} rows")


def _check_column(table: pa.Table, name: str) -> None:
    if table.column_names.count(name) != 1:
        raise ValueError(f"expected one column {name}, came {', '.join(table.column_names) or 'none'}")


def _flat_lists(table: pa.Table, name: str, is_kind: Callable[[Any], bool], expected: str) -> Any:
    """All entries of a column of lists, none of them missing."""
    _check_column(table, name)
    kind = table.schema.field(name).type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)) or not is_kind(kind.value_type):
        raise ValueError(f"expected lists of {expected} as {name}, came {kind}")
    flat = pc.list_flatten(table.column(name))
    if flat.null_count:
        raise ValueError(f"expected lists of {expected} as {name}, came nothing in {flat.null_count} places")
    return flat


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


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
