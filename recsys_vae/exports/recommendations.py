"""Recommendations for many users, streamed to a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from jaxtyping import Float, Int, Shaped

from recsys_vae.exports.id_columns import ids_to_arrow
from recsys_vae.exports.output_path import check_output, output_file


@dataclass(frozen=True)
class RankedItems:
    """The best items of a batch of users, best first.

    ``items`` are item indices; an entry whose score is -inf, or whose index is negative, stands for nothing
    and is left out of the file. ``deviations`` are the scores' standard deviations, where tastes were drawn.
    """

    user_ids: Shaped[np.ndarray, " batch"]
    items: Int[np.ndarray, "batch k"]
    scores: Float[np.ndarray, "batch k"]
    deviations: Float[np.ndarray, "batch k"] | None = None


def write_recommendations(
    path: str | Path,
    batches: Iterable[RankedItems],
    *,
    item_ids: Shaped[np.ndarray, " items"],
    titles: Shaped[np.ndarray, " items"] | None = None,
) -> None:
    """Write a row for each: ``user_id``, ``rank`` (from 1), ``item_id``, ``score``; if known, ``score_std``, ``title``.

    The suffix chooses the format, ``.parquet`` or ``.csv`` (UTF-8, text in quotes). Memory is one batch and
    the catalogue. ``path`` appears, or is replaced, only when everything is written. Raises
    :class:`UserError` naming ``output`` for another suffix, a folder that does not exist, or a full disk.
    """
    catalogue = {"item_id": ids_to_arrow(item_ids)}
    if titles is not None:
        catalogue["title"] = pa.array(titles, pa.string(), from_pandas=True)
    writers: dict[str, Callable[[Path, pa.Schema], Any]] = {
        ".parquet": _parquet_writer,
        ".csv": pacsv.CSVWriter,
    }
    path = check_output(path, writers)
    with output_file(path) as temporary:
        stream = iter(batches)
        first = next(stream, None)
        if first is None:
            first = RankedItems(item_ids[:0], np.empty((0, 0), np.int64), np.empty((0, 0), np.float32))
        table = _rows(first, catalogue)
        with writers[path.suffix.lower()](temporary, table.schema) as writer:
            writer.write_table(table)
            for batch in stream:
                writer.write_table(_rows(batch, catalogue))


def _parquet_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    return pq.ParquetWriter(path, schema, compression="zstd")


def _rows(batch: RankedItems, catalogue: dict[str, Any]) -> pa.Table:
    kept = (batch.items >= 0) & (batch.scores != -np.inf)
    items = pa.array(batch.items[kept])
    # Ranks count what is kept: they have no gap where an entry is left out.
    ranks = np.cumsum(kept, axis=1)[kept]
    users = np.broadcast_to(batch.user_ids[:, None], kept.shape)[kept]
    columns = {
        "user_id": ids_to_arrow(users),
        "rank": pa.array(ranks, pa.int32()),
        "item_id": catalogue["item_id"].take(items),
        "score": pa.array(batch.scores[kept], pa.float32()),
    }
    if batch.deviations is not None:
        columns["score_std"] = pa.array(batch.deviations[kept], pa.float32())
    if "title" in catalogue:
        columns["title"] = catalogue["title"].take(items)
    return pa.table(columns)
