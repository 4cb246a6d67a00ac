"""Weights from items to items as a table, a block of items at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Shaped
from scipy.sparse import csr_array

from recsys_vae.exports.id_columns import ids_to_arrow
from recsys_vae.exports.output_path import check_output, output_file

_BLOCK_ENTRIES = 2**22  # weights held at a time


def write_item_weights(
    path: str | Path,
    item_ids: Shaped[np.ndarray, " items"],
    item_weights: Callable[[slice], csr_array],
    k: int | None = None,
) -> int:
    """Write ``item_id``, ``scored_item_id`` and ``weight`` (float32) to a Parquet file; return the number of rows.

    ``item_weights`` gives some rows of the weights ``(items, items)``. Each item keeps the ``k`` that are largest in
    magnitude, the largest first, or with ``None`` all that are not 0.

    Raises :class:`~recsys_vae.errors.UserError` as :func:`check_output` does, and for a full disk.
    """
    path = check_output(path, (".parquet",))
    ids = ids_to_arrow(item_ids)
    schema = pa.schema([("item_id", ids.type), ("scored_item_id", ids.type), ("weight", pa.float32())])
    n_rows = 0
    with output_file(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for source, target, weight in _blocks(item_weights, len(item_ids), k):
            writer.write_batch(
                pa.record_batch(
                    [ids.take(pa.array(source)), ids.take(pa.array(target)), weight], schema=schema
                )
            )
            n_rows += len(weight)
    return n_rows


def _blocks(
    item_weights: Callable[[slice], csr_array], n_items: int, k: int | None
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    size = max(1, _BLOCK_ENTRIES // n_items)
    for start in range(0, n_items, size):
        rows = item_weights(slice(start, min(start + size, n_items)))
        rows.eliminate_zeros()
        lengths = np.diff(rows.indptr)
        source = np.repeat(np.arange(len(lengths)), lengths)
        order = np.lexsort((rows.indices, -np.abs(rows.data), source))
        if k is not None:
            place = np.arange(len(order)) - np.repeat(rows.indptr[:-1], lengths)
            order = order[place < k]
        yield start + source[order], rows.indices[order], rows.data[order].astype(np.float32)
