"""Read a table of ratings from CSV, TSV, DAT, RecBole INTER or Parquet, plain or inside gzip or zip."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int32, Shaped

from recsys_vae.errors import UserError
from recsys_vae.interactions.columns import USUAL_NAMES, Block, ColumnName, ColumnPicker, pick_columns
from recsys_vae.interactions.compression import file_path, open_table
from recsys_vae.interactions.delimited import read_delimited
from recsys_vae.interactions.ids import encode_ids, ids_as_text, unify_ids
from recsys_vae.interactions.parquet import read_parquet
from recsys_vae.interactions.ratings_table import RatingsTable
from recsys_vae.interactions.values import as_ratings, as_seconds

_log = logging.getLogger(__name__)

_Path = str | os.PathLike[str]


def read_table(
    path: _Path,
    *,
    user: str | None = None,
    item: str | None = None,
    rating: ColumnName = None,
    timestamp: ColumnName = None,
    delimiter: str | None = None,
    encoding: str = "utf-8",
    names: Sequence[str] | None = None,
    items: _Path | None = None,
) -> RatingsTable:
    """Read a table with one rating a row.

    The format follows from the suffix: ``.parquet``, else delimited text (``.csv``, ``.tsv``, ``.dat``,
    ``.inter``, anything else), with ``.gz`` or ``.zip`` after it or not. Text is streamed in blocks of
    16 MiB: the peak memory is a small multiple of the result's.

    Args:
        path: the file.
        user, item: their columns; ``None`` finds them by their usual names (``userId``, ``movie_id``, ...).
        rating, timestamp: likewise, where the table has them; ``False`` reads the table without.
            Times are numbers, or ISO 8601 dates, which become Unix seconds.
        delimiter: one or more characters; ``None`` decides by the suffix and the first line.
        encoding: of text files.
        names: the columns of a text file that has no header.
        items: a second table with ``item_id``, ``title`` and perhaps ``genres``. Titles in the table itself
            are picked up without it.

    Raises:
        UserError: the file cannot be read, a column is missing, a value is not what it should be. The message
            names the file, and the line (1-based, the header included) or the Parquet row.
    """
    _check_names(names)
    given: dict[str, ColumnName] = {"user": user, "item": item, "rating": rating, "timestamp": timestamp}
    text_options = {"delimiter": delimiter, "encoding": encoding, "names": names}
    pick = partial(
        pick_columns,
        source=str(path),
        given=given,
        required=("user", "item"),
        optional=("rating", "timestamp", "title", "genres"),
    )
    columns: dict[str, list[Any]] = {}
    for block in _blocks(path, pick, text_options):
        for role, array in block.columns.items():
            columns.setdefault(role, []).append(_checked(role, array, block))
    if not columns or not sum(len(block) for block in columns["user"]):
        raise UserError(f"{path} has a header but no rows")
    user_codes, user_ids = unify_ids(columns.pop("user"))
    item_codes, item_ids = unify_ids(columns.pop("item"))
    ratings, timestamps = (
        np.concatenate(columns.pop(role)) if role in columns else None for role in ("rating", "timestamp")
    )
    texts = {role: _first_texts(columns[role], item_codes, item_ids.size) for role in columns}
    if items is not None:
        texts |= _item_texts(items, item_ids, {"item": item}, encoding)
    return RatingsTable(
        user_codes=user_codes,
        item_codes=item_codes,
        user_ids=user_ids,
        item_ids=item_ids,
        ratings=ratings,
        timestamps=timestamps,
        titles=texts.get("title"),
        genres=texts.get("genres"),
        source=file_path(path).name,
    )


class Table:
    """A table of one's own as a dataset: what :func:`read_table` takes, read when ``load`` is called."""

    def __init__(
        self,
        path: _Path | None = None,
        user: str | None = None,
        item: str | None = None,
        rating: ColumnName = None,
        timestamp: ColumnName = None,
        items: _Path | None = None,
        delimiter: str | None = None,
        encoding: str = "utf-8",
        names: Sequence[str] | None = None,
    ) -> None:
        """Keep the arguments; see :func:`read_table`.

        Raises:
            UserError: ``path`` is not given, or ``names`` is no list.
        """
        if path is None:
            raise UserError("dataset.path is not given: expected the path of a table of ratings")
        _check_names(names)
        self.path = path
        self._options: dict[str, Any] = {
            "user": user,
            "item": item,
            "rating": rating,
            "timestamp": timestamp,
            "items": items,
            "delimiter": delimiter,
            "encoding": encoding,
            "names": None if names is None else list(names),
        }

    def load(self) -> RatingsTable:
        """Read the table.

        Raises:
            UserError: see :func:`read_table`.
        """
        return read_table(self.path, **self._options)


def _check_names(names: Any) -> None:
    is_list = isinstance(names, Sequence) and not isinstance(names, str)
    if names is not None and not (is_list and all(isinstance(name, str) for name in names)):
        raise UserError(f"dataset.names={names!r}: expected a list of column names")


def _blocks(path: _Path, pick: ColumnPicker, text_options: Mapping[str, Any]) -> Iterator[Block]:
    with open_table(file_path(path)) as table:
        if table.suffix == ".parquet":
            yield from read_parquet(table, pick=pick)
        else:
            yield from read_delimited(table, pick=pick, **text_options)


def _checked(role: str, array: Any, block: Block) -> Any:
    try:
        match role:
            case "rating":
                return as_ratings(array, block.place)
            case "timestamp":
                return as_seconds(array, block.place)
            case "user" | "item":
                return encode_ids(array, role, block.place)
        return _encoded_text(array)
    except pa.ArrowException as error:
        message = f"the {role} column is {array.type}, which cannot be read as one ({error})"
        raise UserError(f"{block.place(0)}: {message}") from None


def _encoded_text(array: Any) -> Any:
    """Dictionary-encode titles or genres; a list of genres is joined by ``|``, as MovieLens writes them."""
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        array = pc.binary_join(array, "|")
    if not pa.types.is_dictionary(array.type):
        array = array.cast(pa.string()).dictionary_encode()
    return pa.DictionaryArray.from_arrays(array.indices.cast(pa.int32()), array.dictionary.cast(pa.string()))


def _first_texts(
    blocks: Sequence[Any], item_codes: Int32[np.ndarray, " rows"], n_items: int
) -> Shaped[np.ndarray, " items"]:
    """The first text that is not empty for every item; ``None`` where there is none."""
    chunks = pa.chunked_array(blocks, pa.dictionary(pa.int32(), pa.string())).unify_dictionaries().chunks
    words = chunks[0].dictionary.to_numpy(zero_copy_only=False).astype(object)
    codes = np.concatenate([np.asarray(chunk.indices.fill_null(-1)) for chunk in chunks])
    filled = np.append(words != "", False)[codes]  # -1, null, takes the appended False
    texts = np.full(n_items, None, object)
    # Of repeated indices the last assignment stays, so the rows go in backwards.
    texts[item_codes[filled][::-1]] = words[codes[filled]][::-1]
    return texts


def _item_texts(
    path: _Path, item_ids: Shaped[np.ndarray, " items"], given: Mapping[str, ColumnName], encoding: str
) -> dict[str, Shaped[np.ndarray, " items"]]:
    """Titles and genres along ``item_ids`` from an item table; items that it does not know get ``None``."""
    usual = {**USUAL_NAMES, "title": (*USUAL_NAMES["title"], "name")}

    def pick(names: Sequence[str]) -> Mapping[str, int]:
        # The item's column has the name that it has in the ratings, or a usual one.
        known = given if given["item"] in names else {}
        return pick_columns(
            names,
            source=str(path),
            given=known,
            required=("item", "title"),
            optional=("genres",),
            usual=usual,
        )

    columns: dict[str, list[Any]] = {}
    text_options = {"delimiter": None, "encoding": encoding, "names": None}
    for block in _blocks(path, pick, text_options):
        for role, array in block.columns.items():
            columns.setdefault(role, []).append(_checked(role, array, block))
    if not columns:
        raise UserError(f"dataset.items={path} has a header but no rows")
    codes, known_ids = unify_ids(columns.pop("item"))
    at = pc.index_in(ids_as_text(item_ids), value_set=ids_as_text(known_ids)).fill_null(-1).to_numpy()
    unknown = int(np.count_nonzero(at < 0))
    if unknown:
        _log.info("%s has no title for %d of %d items", path, unknown, item_ids.size)
    return {
        role: np.append(_first_texts(blocks, codes, known_ids.size), [None])[at]
        for role, blocks in columns.items()
    }
