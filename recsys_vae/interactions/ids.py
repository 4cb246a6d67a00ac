"""User and item ids: coded as they are read, exact to the last digit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int32, Shaped

from recsys_vae.errors import UserError


def encode_ids(array: Any, role: str, place: Callable[[int], str]) -> Any:
    """Dictionary-encode one block of ids as strings; integers are written in decimal.

    Raises:
        UserError: an id is null or empty, or the column holds neither strings nor integers.
    """
    kind = array.type
    if array.null_count:
        row = int(np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))[0])
        raise UserError(f"{place(row)}: the {role} id is missing")
    if pa.types.is_dictionary(kind):
        encoded = array
    elif pa.types.is_integer(kind) or is_text(kind):
        encoded = array.dictionary_encode()
    else:
        hint = " (floating-point ids do not survive exactly)" if pa.types.is_floating(kind) else ""
        raise UserError(f"{place(0)}: {role} ids are {kind}: expected strings or integers{hint}")
    words = encoded.dictionary.cast(pa.string())
    words.validate(full=True)
    empty = pc.index(words, "").as_py()
    if empty >= 0:
        row = int(np.flatnonzero(np.asarray(encoded.indices) == empty)[0]) if len(array) else 0
        raise UserError(f"{place(row)}: the {role} id is empty")
    return pa.DictionaryArray.from_arrays(encoded.indices.cast(pa.int32()), words)


def unify_ids(
    blocks: Sequence[Any],
) -> tuple[Int32[np.ndarray, " rows"], Shaped[np.ndarray, " ids"]]:
    """Join the blocks of :func:`encode_ids`: a code for every row into the sorted distinct ids.

    The ids are int64 if every one is an integer of that range written the usual way (``str(int(s)) == s``),
    else ``str`` in an object array, sorted by code point.
    """
    chunks = pa.chunked_array(blocks, pa.dictionary(pa.int32(), pa.string())).unify_dictionaries().chunks
    words = chunks[0].dictionary
    integers = _canonical_integers(words)
    order = np.argsort(integers) if integers is not None else np.asarray(pc.array_sort_indices(words))
    ids = integers if integers is not None else words.to_numpy(zero_copy_only=False)
    rank = np.empty(order.size, np.int32)
    rank[order] = np.arange(order.size, dtype=np.int32)
    codes = np.empty(sum(len(chunk) for chunk in chunks), np.int32)
    start = 0
    for chunk in chunks:
        np.take(rank, np.asarray(chunk.indices), out=codes[start : start + len(chunk)])
        start += len(chunk)
    return codes, ids[order]


def ids_as_text(ids: Shaped[np.ndarray, " ids"]) -> Any:
    """The ids as an Arrow array of strings."""
    return pa.array(ids).cast(pa.string()) if ids.dtype != object else pa.array(ids, pa.string())


def _canonical_integers(words: Any) -> np.ndarray | None:
    try:
        integers = words.cast(pa.int64())
    except pa.ArrowInvalid:
        return None
    same = pc.all(pc.equal(integers.cast(pa.string()), words)).as_py()
    return np.asarray(integers) if same else None


def is_text(kind: Any) -> bool:
    """Whether an Arrow type holds text, or bytes that may be text."""
    tests = ("is_string", "is_large_string", "is_string_view", "is_binary", "is_large_binary")
    return any(getattr(pa.types, test)(kind) for test in tests)
