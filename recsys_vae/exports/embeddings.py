"""Vectors of users or items on disk: written as a stream, read back exactly.

=================  ======================================================================================
suffix             layout
=================  ======================================================================================
``.parquet``       column ``user_id`` (or ``item_id``), and one fixed-size list of float32 for each name
``.npz``           an array for each name; text ids as fixed-width unicode; nothing pickled
``.safetensors``   a tensor for each name; whole-number ids as the int64 tensor ``user_id``; text ids as
                   ``user_id.offsets`` (int64, rows + 1) and ``user_id.utf8`` (uint8, all ids end to end):
                   id ``i`` is ``utf8[offsets[i]:offsets[i + 1]]``
=================  ======================================================================================
"""

from __future__ import annotations

import itertools
import json
import math
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Float32, Shaped
from safetensors import SafetensorError
from safetensors.numpy import load_file

from recsys_vae.errors import UserError
from recsys_vae.exports.id_columns import ids_from_arrow, ids_to_arrow
from recsys_vae.exports.output_path import check_output, output_file

IdName = Literal["user_id", "item_id"]

# Batches are gathered into Parquet row groups of about this size.
_ROW_GROUP_BYTES = 1 << 24


# What the three libraries raise when a file is not what it should be; StopIteration: no column of ids.
_UNREADABLE = (OSError, EOFError, ValueError, KeyError, IndexError, AttributeError, StopIteration)


@dataclass(frozen=True)
class _Layout:
    """What is known before the first row is written."""

    id_name: str
    ids: Shaped[np.ndarray, " rows"]
    widths: dict[str, int]  # vector name -> latent


Batches = Iterator[dict[str, np.ndarray]]


def write_vectors(
    path: str | Path,
    ids: Shaped[np.ndarray, " rows"],
    batches: Iterable[Mapping[str, Float[np.ndarray, "_ _"]]],
    *,
    id_name: IdName = "user_id",
) -> None:
    """Write every id's vectors, e.g. ``mean`` and ``std``, as float32, in the format that the suffix names.

    ``ids`` are int64 or ``str`` objects, shape ``(rows,)``. ``batches`` yields consecutive rows in their
    order: arrays ``(batch, latent)`` under the same names every time. Memory does not grow with the number of
    rows, but for ``ids`` itself. ``path`` appears, or is replaced, only when everything is written.

    Raises :class:`UserError` naming ``output`` for an unknown suffix, a folder that does not exist, a full
    disk, or an id that the format cannot hold; ``ValueError`` when the batches do not fit the ids.
    """
    path = check_output(path, _WRITERS)
    with output_file(path) as temporary:
        stream = iter(batches)
        first = next(stream, {})
        layout = _Layout(id_name, ids, {name: int(rows.shape[1]) for name, rows in first.items()})
        _WRITERS[path.suffix.lower()](temporary, layout, _checked(itertools.chain([first], stream), layout))


def write_vector_blocks(
    path: str | Path,
    blocks: Iterable[tuple[Shaped[np.ndarray, " batch"], Mapping[str, Float[np.ndarray, "_ _"]]]],
    *,
    id_name: IdName = "user_id",
) -> int:
    """Like :func:`write_vectors`, for rows whose number is not known before: every block brings its own ids.

    Memory is one block and one row group. Only ``.parquet`` can be written so, the other formats state the
    number of rows first. Returns the number of rows; the same errors.
    """
    path = check_output(path, (".parquet",))
    stream = iter(blocks)
    n_rows = 0

    def record_batches() -> Iterator[pa.RecordBatch]:
        nonlocal n_rows
        for ids, vectors in itertools.chain([first], stream):
            for batch in _checked([vectors], _Layout(id_name, ids, widths)):
                yield _record_batch(schema, ids_to_arrow(ids), batch)
            n_rows += len(ids)

    with output_file(path) as temporary:
        nothing: tuple[np.ndarray, Mapping[str, np.ndarray]] = (np.empty(0, dtype=np.int64), {})
        first = next(stream, nothing)
        widths = {name: int(rows.shape[1]) for name, rows in first[1].items()}
        schema = _schema(id_name, ids_to_arrow(first[0]).type, widths)
        _write_row_groups(temporary, schema, record_batches())
    return n_rows


def read_vectors(
    path: str | Path,
) -> tuple[Shaped[np.ndarray, " rows"], dict[str, Float32[np.ndarray, "rows _"]]]:
    """The ids (int64, or objects of ``str``) and the arrays that :func:`write_vectors` wrote, in its order.

    Raises :class:`UserError` naming ``input`` when the file is missing, damaged, or not such a file.
    """
    path = Path(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"input: expected a name ending in {', '.join(_READERS)}, came {str(path)!r}")
    try:
        return reader(path)
    except (*_UNREADABLE, pa.ArrowException, SafetensorError, zipfile.BadZipFile) as error:
        raise UserError(f"input: {path} cannot be read as vectors: {error}") from error


def _checked(batches: Iterable[Mapping[str, np.ndarray]], layout: _Layout) -> Batches:
    done, total = 0, len(layout.ids)
    for batch in batches:
        if {name: rows.shape[1] for name, rows in batch.items()} != layout.widths or layout.id_name in batch:
            raise ValueError(f"expected vectors {layout.widths} without {layout.id_name}, came {list(batch)}")
        sizes = {len(rows) for rows in batch.values()}
        if len(sizes) > 1:
            raise ValueError(f"expected arrays of one length in a batch, came {sorted(sizes)}")
        done += sum(sizes)
        if done > total:
            break
        yield {name: np.ascontiguousarray(rows, dtype="<f4") for name, rows in batch.items()}
    if done != total:
        raise ValueError(f"expected one row of vectors for each of {total} ids, came {done}")


def _write_parquet(path: Path, layout: _Layout, batches: Batches) -> None:
    ids = ids_to_arrow(layout.ids)
    schema = _schema(layout.id_name, ids.type, layout.widths)

    def record_batches() -> Iterator[pa.RecordBatch]:
        start = 0
        for batch in batches:
            stop = start + len(next(iter(batch.values()), ()))
            yield _record_batch(schema, ids[start:stop], batch)
            start = stop

    _write_row_groups(path, schema, record_batches())


def _schema(id_name: str, id_type: pa.DataType, widths: Mapping[str, int]) -> pa.Schema:
    fields = [(name, pa.list_(pa.float32(), width)) for name, width in widths.items()]
    return pa.schema([(id_name, id_type), *fields])


def _record_batch(schema: pa.Schema, ids: pa.Array, batch: Mapping[str, np.ndarray]) -> pa.RecordBatch:
    columns = [
        pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1]) for rows in batch.values()
    ]
    return pa.record_batch([ids, *columns], schema=schema)


def _write_row_groups(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=False) as writer:
        pending: list[pa.RecordBatch] = []
        for batch in batches:
            pending.append(batch)
            if sum(group.nbytes for group in pending) >= _ROW_GROUP_BYTES:
                writer.write_table(pa.Table.from_batches(pending))
                pending = []
        writer.write_table(pa.Table.from_batches(pending, schema))


def _read_parquet(path: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    table = pq.read_table(path)
    id_name = _id_name(table.column_names)
    vectors = {}
    for name in table.column_names:
        if name != id_name:
            flat = table.column(name).combine_chunks().flatten().to_numpy()
            vectors[name] = flat.reshape(-1, table.schema.field(name).type.list_size)
    return ids_from_arrow(table.column(id_name)), vectors


def _write_npz(path: Path, layout: _Layout, batches: Batches) -> None:
    ids = layout.ids
    if ids.dtype.kind not in "iu":
        text = ids.astype(str)
        if (text.astype(object) != ids).any():
            raise UserError("output: .npz cannot hold an id that ends in a NUL character; expected .parquet")
        ids = text
    # Zip members come one after the other, but the arrays grow side by side: each in a file of its own.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f"{path.stem}.") as folder:
        parts = {name: Path(folder, f"{number}.npy") for number, name in enumerate(layout.widths)}
        with ExitStack() as stack:
            files = {name: stack.enter_context(part.open("wb")) for name, part in parts.items()}
            for name, width in layout.widths.items():
                header = {"descr": "<f4", "fortran_order": False, "shape": (len(ids), width)}
                np.lib.format.write_array_header_1_0(files[name], header)
            for batch in batches:
                for name, rows in batch.items():
                    files[name].write(rows.data)
        with zipfile.ZipFile(path, "w") as archive:
            with archive.open(f"{layout.id_name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, ids, allow_pickle=False)
            for name, part in parts.items():
                with part.open("rb") as file, archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    shutil.copyfileobj(file, member, 1 << 20)


def _read_npz(path: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    with path.open("rb") as file, np.lib.npyio.NpzFile(file, allow_pickle=False) as archive:
        vectors = {name: archive[name] for name in archive.files}
    ids = vectors.pop(_id_name(vectors))
    return (ids if ids.dtype.kind == "i" else ids.astype(object)), vectors


def _write_safetensors(path: Path, layout: _Layout, batches: Batches) -> None:
    # By hand, for the library wants every tensor in memory: the header states where each one lies, and a
    # batch goes straight to its place. Not memory-mapped: a full disk would then be a signal, not an error.
    before, after = _id_tensors(layout)
    shapes = {name: ("F32", [len(layout.ids), width], 4) for name, width in layout.widths.items()}
    shapes = {
        **{name: ("I64", [len(values)], 8) for name, values in before.items()},
        **shapes,
        **{name: ("U8", [len(values)], 1) for name, values in after.items()},
    }
    header: dict[str, object] = {"__metadata__": {"ids": layout.id_name}}
    starts, end = {}, 0
    for name, (kind, shape, size) in shapes.items():
        starts[name], end = end, end + size * math.prod(shape)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [starts[name], end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        starts = {name: start + file.tell() for name, start in starts.items()}
        for name, values in {**before, **after}.items():
            file.seek(starts[name])
            file.write(values.data)
        for batch in batches:
            for name, rows in batch.items():
                file.seek(starts[name])
                file.write(rows.data)
                starts[name] = file.tell()


def _id_tensors(layout: _Layout) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The int64 tensors that come first, for alignment, and the bytes that come last."""
    column = ids_to_arrow(layout.ids)
    if pa.types.is_integer(column.type):
        return {layout.id_name: column.to_numpy().astype("<i8")}, {}
    _, offsets, text = column.cast(pa.large_string()).buffers()
    bounds = np.frombuffer(offsets, "<i8", len(column) + 1)
    utf8 = np.frombuffer(text, np.uint8, bounds[-1]) if bounds[-1] else np.empty(0, np.uint8)
    return {f"{layout.id_name}.offsets": bounds}, {f"{layout.id_name}.utf8": utf8}


def _read_safetensors(path: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    vectors = load_file(path)
    id_name = _id_name(name.partition(".")[0] for name in vectors)
    if id_name in vectors:
        return vectors.pop(id_name), vectors
    offsets, utf8 = vectors.pop(f"{id_name}.offsets"), vectors.pop(f"{id_name}.utf8")
    text = pa.LargeStringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(utf8))
    text.validate(full=True)
    return ids_from_arrow(text), vectors


def _id_name(names: Iterable[str]) -> str:
    return next(name for name in names if name in get_args(IdName))


_WRITERS: dict[str, Callable[[Path, _Layout, Batches], None]] = {
    ".parquet": _write_parquet,
    ".npz": _write_npz,
    ".safetensors": _write_safetensors,
}
_READERS: dict[str, Callable[[Path], tuple[np.ndarray, dict[str, np.ndarray]]]] = {
    ".parquet": _read_parquet,
    ".npz": _read_npz,
    ".safetensors": _read_safetensors,
}
