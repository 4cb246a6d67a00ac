"""User and item ids as Arrow columns, and back, exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int64, Shaped


def ids_to_arrow(ids: Shaped[np.ndarray, " ids"]) -> pa.Array:
    """Int64 ids as an Arrow int64 array, any others as an Arrow string array.

    Raises ``pyarrow.ArrowException`` when an id is neither a whole number nor a ``str``.
    """
    kind = pa.int64() if ids.dtype.kind in "iu" else pa.string()
    return pa.array(ids, type=kind)


def ids_from_arrow(column: Any) -> Shaped[np.ndarray, " ids"]:
    """An Arrow integer column as int64, a string column as an object array of ``str``; else ``ValueError``."""
    if pa.types.is_integer(column.type):
        return np.asarray(column.cast(pa.int64()).to_numpy())
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise ValueError(f"expected whole numbers or text, came {column.type}")
    return np.asarray(column.to_numpy(zero_copy_only=False), dtype=object)


def exceeds_int64(column: Any) -> bool:
    """Whether an Arrow column holds an unsigned number that no int64 can be."""
    if pa.types.is_dictionary(column.type) and pa.types.is_uint64(column.type.value_type):
        column = column.cast(pa.uint64())
    if not pa.types.is_uint64(column.type):
        return False
    largest = pc.max(column).as_py()
    return largest is not None and largest > np.iinfo(np.int64).max


def list_column(
    offsets: Shaped[np.ndarray, " rows_plus_one"], values: Shaped[np.ndarray, " values"]
) -> pa.Array:
    """CSR's ``indptr`` and ``indices`` (or ``data``) as an Arrow array with one list a row."""
    kind = pa.int32() if values.dtype.kind in "iu" else pa.float32()
    if len(values) > np.iinfo(np.int32).max:
        return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), pa.array(values, kind))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values, kind))


def list_offsets(column: Any) -> Int64[np.ndarray, " rows_plus_one"]:
    """The ``indptr`` of an Arrow list array; a null list counts as an empty one.

    ``column.flatten()`` gives the values that belong to it, slices and nulls taken into account.
    """
    lengths = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
