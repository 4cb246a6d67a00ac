"""Read a Parquet table batch by batch with Arrow."""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Iterator
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from recsys_vae.errors import UserError
from recsys_vae.interactions.columns import Block, ColumnPicker
from recsys_vae.interactions.compression import OpenTable

BATCH_ROWS = 1 << 18
# A damaged file makes Arrow raise nearly anything.
_DAMAGED = (pa.ArrowException, OSError, MemoryError, ValueError, LookupError, OverflowError, TypeError)


def read_parquet(table: OpenTable, *, pick: ColumnPicker) -> Iterator[Block]:
    """Yield the picked columns in the types that they have, dictionaries decoded.

    Raises:
        UserError: the file is not Parquet, is damaged, or lacks a column.
    """
    if table.seekable:
        yield from _read(table.stream, table.name, pick)
        return
    # Parquet keeps its index at the end, so what is compressed must be unpacked first.
    with tempfile.TemporaryFile() as unpacked:
        shutil.copyfileobj(table.stream, unpacked, 1 << 20)
        unpacked.seek(0)
        yield from _read(unpacked, table.name, pick)


def _read(stream: io.BufferedIOBase | IO[bytes], name: str, pick: ColumnPicker) -> Iterator[Block]:
    if stream.read(4) != b"PAR1":
        raise UserError(f"{name} is not a Parquet file")
    stream.seek(0)
    try:
        file = pq.ParquetFile(stream, page_checksum_verification=True)
        names = file.schema_arrow.names
        positions = pick(names)
        wanted = {role: names[at] for role, at in positions.items()}
        first = 0
        for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=list(wanted.values())):
            batch.validate(full=True)
            yield Block(
                {role: _decoded(batch.column(column)) for role, column in wanted.items()}, _place(name, first)
            )
            first += batch.num_rows
    except UserError:
        raise
    except _DAMAGED as error:
        raise UserError(f"{name} is not a readable Parquet file: {error or type(error).__name__}") from None


def _decoded(array: Any) -> Any:
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _place(name: str, first: int) -> Any:
    return lambda row: f"{name}, row {first + row + 1}"
