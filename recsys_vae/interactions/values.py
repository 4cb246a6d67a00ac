"""Ratings and times: finite numbers, or one line that says where the first bad one is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float32, Float64

from recsys_vae.errors import UserError
from recsys_vae.interactions.ids import is_text

_ZONE = r"\d\d:\d\d.*(Z|[+-]\d\d(:?\d\d)?)$"


def as_ratings(array: Any, place: Callable[[int], str], what: str = "rating") -> Float32[np.ndarray, " rows"]:
    """One block of ratings, or of whatever messages shall call ``what``, as float32.

    Raises:
        UserError: a rating is missing, no number, NaN or infinite (beyond float32 included).
    """
    _refuse_nulls(array, what, place)
    numbers = _converted(array, _numbers, what, "a number", place)
    with np.errstate(over="ignore"):
        ratings = numbers.astype(np.float32)
    _refuse_infinite(ratings, array, what, place)
    return ratings


def as_seconds(array: Any, place: Callable[[int], str]) -> Float64[np.ndarray, " rows"]:
    """One block of times as float64: numbers as they are, ISO 8601 as Unix seconds (UTC without a zone).

    Raises:
        UserError: a time is missing, or neither a finite number nor an ISO 8601 date.
    """
    _refuse_nulls(array, "timestamp", place)
    convert = _numbers
    if pa.types.is_temporal(array.type):
        convert = _seconds
    elif len(array) and is_text(array.type) and not _convertible(array.slice(0, 1), _numbers):
        convert = _iso_seconds
    expected = "a number or an ISO 8601 date (dataset.timestamp=false reads the table without times)"
    seconds = _converted(array, convert, "timestamp", expected, place)
    _refuse_infinite(seconds, array, "timestamp", place)
    return seconds


def _numbers(array: Any) -> np.ndarray:
    """Raises ArrowInvalid where a value is no number."""
    if is_text(array.type):
        array = array.cast(pa.string())
        try:
            numbers = array.cast(pa.float64())
        except pa.ArrowInvalid:
            numbers = pc.utf8_trim_whitespace(array).cast(pa.float64())
    else:
        numbers = array.cast(pa.float64(), safe=False)
    return np.asarray(numbers)


def _iso_seconds(array: Any) -> np.ndarray:
    text = pc.utf8_trim_whitespace(array.cast(pa.string()))
    text = pc.replace_substring_regex(text, r"([.]\d{6})\d+", r"\1")
    text = pc.if_else(pc.match_substring_regex(text, r"^\d{4}-\d\d-\d\d$"), _joined(text, "T00:00:00"), text)
    text = pc.if_else(pc.match_substring_regex(text, _ZONE), text, _joined(text, "Z"))
    return _seconds(text.cast(pa.timestamp("us", "UTC")))


def _joined(text: Any, ending: str) -> Any:
    return pc.binary_join_element_wise(text, ending, "")


def _seconds(array: Any) -> np.ndarray:
    """Arrow dates and timestamps as Unix seconds."""
    if pa.types.is_date(array.type):
        array = array.cast(pa.timestamp("ms"))
    if not pa.types.is_timestamp(array.type):
        raise pa.ArrowInvalid(f"{array.type} is no point in time")
    ticks_per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[array.type.unit]
    return np.asarray(array.cast(pa.int64())) / ticks_per_second


def _convertible(array: Any, convert: Callable[[Any], np.ndarray]) -> bool:
    try:
        convert(array)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return False
    return True


def _converted(
    array: Any, convert: Callable[[Any], np.ndarray], what: str, expected: str, place: Callable[[int], str]
) -> np.ndarray:
    if len(array) == 0:
        return np.empty(0)
    if _convertible(array, convert):
        return convert(array)
    # Halve the rows until the first that does not convert is alone: the rows before `low` do.
    low, high = 0, len(array)
    while high - low > 1:
        middle = (low + high) // 2
        if _convertible(array.slice(low, middle - low), convert):
            low = middle
        else:
            high = middle
    raise UserError(f"{place(low)}: {what} {_shown(array, low)} is not {expected}")


def _refuse_nulls(array: Any, what: str, place: Callable[[int], str]) -> None:
    if array.null_count:
        row = int(np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))[0])
        raise UserError(f"{place(row)}: the {what} is missing")


def _refuse_infinite(numbers: np.ndarray, array: Any, what: str, place: Callable[[int], str]) -> None:
    finite = np.isfinite(numbers)
    if not finite.all():
        row = int(np.flatnonzero(~finite)[0])
        raise UserError(f"{place(row)}: {what} {_shown(array, row)} is not a finite number")


def _shown(array: Any, row: int) -> str:
    text = str(array[row])
    return repr(text if len(text) <= 40 else text[:37] + "...") if text else "''"
