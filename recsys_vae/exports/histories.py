"""Histories of new users, read from a file: what ``recommend input=FILE`` is given.

=====================  ====================================================================================
layout                 columns
=====================  ====================================================================================
one row an item        ``user_id``, ``item_id``, optionally ``weight``, in any order; ``.parquet``, or text:
                       ``.csv``, ``.tsv``, ``.dat``, ``.inter``, ``.txt``, plain or with ``.gz`` or ``.zip``
one row a user         ``user_id``, ``items`` (a list), optionally ``weights`` (a list); ``.parquet``
=====================  ====================================================================================

Other columns are ignored. Spelling is free as far as ``userId``, ``user``, ``itemId``, ``item``, ``movieId``
and ``history`` go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Float, Int64, Shaped

from recsys_vae.errors import UserError
from recsys_vae.exports.id_columns import exceeds_int64, ids_from_arrow, list_offsets
from recsys_vae.interactions.compression import TABLE_SUFFIXES, open_table
from recsys_vae.interactions.delimited import read_delimited
from recsys_vae.interactions.ids import encode_ids
from recsys_vae.interactions.values import as_ratings

_SPELLINGS = {
    "user_id": ("userid", "user"),
    "item_id": ("itemid", "item", "movieid"),
    "items": ("items", "history"),
    "weight": ("weight",),
    "weights": ("weights",),
}
# What the reader of text tables calls the columns of one row an item.
_ROLES = {"user_id": "user", "item_id": "item", "weight": "weight"}


@dataclass(frozen=True)
class Histories:
    """Some users and what they have seen: user ``u`` has ``item_ids[offsets[u]:offsets[u + 1]]``.

    Ids are int64, or object arrays of ``str``; they are not yet looked up in any catalogue, and one user may
    name an item twice. ``weights`` runs parallel to ``item_ids``.
    """

    user_ids: Shaped[np.ndarray, " users"]
    offsets: Int64[np.ndarray, " users_plus_one"]
    item_ids: Shaped[np.ndarray, " entries"]
    weights: Float[np.ndarray, " entries"] | None = None


def read_histories(path: str | Path, *, batch_size: int = 4096) -> Iterator[Histories]:
    """Yield the users of ``path``, ``batch_size`` at a time, in the order of their first appearance.

    With one row a user the file is streamed. With one row an item the rows of a user may lie anywhere, so the
    file's two or three columns are held in memory and grouped by one sort. The ids of a CSV column are whole
    numbers when every one is written as such in the shortest way, else text: ``007`` stays ``"007"``.

    Raises :class:`UserError` naming ``input`` and, where there is one, the row or the line: a file that is missing,
    empty, damaged or of another kind, a column that is missing or of another type, an id that is missing, a
    weight that is not a positive number. Columns are checked before the first batch is asked for.
    """
    path = Path(path)
    kind = path.suffix.lower()
    packed = kind in (".gz", ".zip")
    if packed:
        # A zip holds the table under a name of its own.
        kind = Path(path.stem).suffix.lower() or (".csv" if kind == ".zip" else "")
    if kind not in TABLE_SUFFIXES or (packed and kind == ".parquet"):
        raise UserError(
            f"input: expected a name ending in .parquet or .csv (.tsv, .dat, .txt; .gz or .zip after it), "
            f"came {str(path)!r}"
        )
    if not path.is_file():
        raise UserError(f"input: expected a file of histories, {path} does not exist")
    source = _Source(path)
    if kind != ".parquet":
        return _grouped(source, _read_csv(source), batch_size)
    file = source.guard(pq.ParquetFile, path)
    columns = source.columns(source.guard(lambda: file.schema_arrow.names))
    if file.metadata.num_rows == 0:
        raise UserError(f"input: {path} holds no histories")
    if "items" in columns:
        return _streamed(source, file, columns, batch_size)
    table = source.guard(file.read, columns=list(columns.values()))
    return _grouped(source, source.pick(table), batch_size)


class _Source:
    """The file's name, for messages, and what its columns are called."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def guard(self, function: Any, *arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
            raise UserError(f"input: {self.path} cannot be read: {error}") from error

    def columns(self, names: list[str]) -> dict[str, str]:
        """Meaning -> name in the file."""
        plain = {name.casefold().replace("_", ""): name for name in reversed(names)}
        found = {
            meaning: next((plain[spelling] for spelling in spellings if spelling in plain), "")
            for meaning, spellings in _SPELLINGS.items()
        }
        wanted = ("user_id", "items", "weights") if not found["item_id"] else ("user_id", "item_id", "weight")
        if not found["user_id"] or not (found["item_id"] or found["items"]):
            raise UserError(
                f"input: {self.path}: expected the columns user_id and item_id, or user_id and items "
                f"(lists), came {', '.join(names) or 'none'}"
            )
        return {meaning: found[meaning] for meaning in wanted if found[meaning]}

    def pick(self, table: pa.Table) -> dict[str, Any]:
        if table.num_rows == 0:
            raise UserError(f"input: {self.path} holds no histories")
        return {meaning: table.column(name) for meaning, name in self.columns(table.column_names).items()}

    def ids(self, column: Any, meaning: str, first_row: int = 0, *, as_text: bool | None = None) -> Any:
        """The column as int64 or as strings, every entry there.

        Unsigned numbers beyond int64 become text, as they do in training: the whole column, or ``as_text`` says.
        """
        if as_text is None:
            as_text = self.guard(exceeds_int64, column)
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if pa.types.is_uint64(kind) and as_text:
            column = self.guard(column.cast, pa.uint64()).cast(pa.large_string())
        elif pa.types.is_integer(kind):
            column = self.guard(column.cast, pa.int64())
        elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
            column = self.guard(column.cast, pa.large_string())
            self.guard(column.validate, full=True)  # Parquet does not check that its text is UTF-8
        else:
            raise UserError(f"input: {self.path}: expected whole numbers or text as {meaning}, came {kind}")
        if column.null_count:
            row = first_row + pc.index(column.is_null(), True).as_py() + 1
            raise UserError(f"input: {self.path}: row {row}: expected {meaning}, came nothing")
        return column

    def weights(self, column: Any, meaning: str) -> Float[np.ndarray, " entries"]:
        values = self.guard(column.cast, pa.float32()).to_numpy(zero_copy_only=False)
        valid = (values > 0) & np.isfinite(values)
        if not valid.all():
            row = int(np.argmin(valid))
            raise UserError(
                f"input: {self.path}: {meaning} {row + 1}: expected a positive number, came {values[row]}"
            )
        return np.asarray(values, dtype=np.float32)


def _read_csv(source: _Source) -> dict[str, Any]:
    """Meaning -> column."""

    def pick(names: Sequence[str]) -> dict[str, int]:
        columns = source.columns(list(names))
        if "items" in columns:
            raise UserError(f"{source.path}: expected a column item_id; lists need a .parquet file")
        return {_ROLES[meaning]: names.index(name) for meaning, name in columns.items()}

    parts: dict[str, list[Any]] = {}
    try:
        with open_table(source.path) as table:
            if table.suffix == ".parquet":
                raise UserError(f"{table.name}: expected text; Parquet must not be inside another file")
            for block in read_delimited(table, pick=pick, delimiter=None, encoding="utf-8", names=None):
                for meaning, role in _ROLES.items():
                    if role not in block.columns:
                        continue
                    array = block.columns[role]
                    if role == "weight":
                        column = pa.array(_positive(array, block.place))
                    else:
                        column = encode_ids(array, role, block.place).dictionary_decode()
                    parts.setdefault(meaning, []).append(column)
    except UserError as error:
        # The advice to set another key is for tables of ratings; input has none.
        told = str(error).removeprefix("input: ").partition("; try dataset.")[0]
        raise UserError(f"input: {told}") from error
    columns = {meaning: pa.chunked_array(arrays) for meaning, arrays in parts.items()}
    if not columns or not len(columns["user_id"]):
        raise UserError(f"input: {source.path} holds no histories")
    return {
        meaning: column if meaning == "weight" else _shortest_integers(column)
        for meaning, column in columns.items()
    }


def _positive(array: Any, place: Callable[[int], str]) -> Float[np.ndarray, " rows"]:
    weights = as_ratings(array, place, "weight")
    if not (weights > 0).all():
        row = int(np.argmin(weights > 0))
        raise UserError(f"{place(row)}: expected a positive weight, came {weights[row]:g}")
    return weights


def _shortest_integers(column: Any) -> Any:
    """A text column as int64 when that loses nothing, else as it was."""
    try:
        numbers = column.cast(pa.int64())
    except pa.ArrowInvalid:
        return column
    return numbers if numbers.cast(pa.string()).equals(column) else column


def _grouped(source: _Source, columns: dict[str, Any], batch_size: int) -> Iterator[Histories]:
    users = source.ids(columns["user_id"], "a user_id").combine_chunks().dictionary_encode()
    items = source.ids(columns["item_id"], "an item_id").combine_chunks()
    weights = source.weights(columns["weight"], "weight") if "weight" in columns else None
    # Codes are handed out in the order of first appearance; a stable sort keeps a user's items in file order.
    codes = users.indices.to_numpy()
    order = np.argsort(codes, kind="stable")
    counts = np.bincount(codes, minlength=len(users.dictionary))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return _slices(users.dictionary, offsets, items, order, weights, batch_size)


def _slices(
    users: Any,
    offsets: np.ndarray,
    items: Any,
    order: np.ndarray,
    weights: np.ndarray | None,
    batch_size: int,
) -> Iterator[Histories]:
    for start in range(0, len(users), batch_size):
        bounds = offsets[start : start + batch_size + 1]
        rows = order[bounds[0] : bounds[-1]]
        yield Histories(
            user_ids=ids_from_arrow(users[start : start + batch_size]),
            offsets=bounds - bounds[0],
            item_ids=ids_from_arrow(items.take(pa.array(rows))),
            weights=None if weights is None else weights[rows],
        )


def _streamed(
    source: _Source, file: pq.ParquetFile, columns: dict[str, str], batch_size: int
) -> Iterator[Histories]:
    for meaning in columns.keys() - {"user_id"}:
        kind = file.schema_arrow.field(columns[meaning]).type
        if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
            raise UserError(
                f"input: {source.path}: expected lists in the column {columns[meaning]}, came {kind}"
            )
    return _list_batches(source, file, columns, batch_size)


def _list_batches(
    source: _Source, file: pq.ParquetFile, columns: dict[str, str], batch_size: int
) -> Iterator[Histories]:
    # One kind of user ids for all batches, so their largest must be known before the first.
    name = columns["user_id"]
    as_text = pa.types.is_uint64(file.schema_arrow.field(name).type) and any(
        source.guard(lambda: [exceeds_int64(b.column(name)) for b in file.iter_batches(columns=[name])])
    )
    batches = file.iter_batches(batch_size=batch_size, columns=list(columns.values()))
    done = 0
    while (batch := source.guard(next, batches, None)) is not None:
        users = source.ids(batch.column(name), "a user_id", done, as_text=as_text)
        lists = batch.column(columns["items"])
        offsets = list_offsets(lists)
        values = lists.flatten()
        if pa.types.is_null(values.type):
            values = values.cast(pa.int64())
        weights = None
        if "weights" in columns:
            weight_lists = batch.column(columns["weights"])
            if not np.array_equal(list_offsets(weight_lists), offsets):
                raise UserError(f"input: {source.path}: expected as many weights as items in every row")
            weights = source.weights(weight_lists.flatten(), "weights")
        items = ids_from_arrow(source.ids(values, "an id in every list of items", done))
        yield Histories(ids_from_arrow(users), offsets, items, weights)
        done += batch.num_rows
