"""A table of ratings in memory: one entry a row, ids replaced by codes into sorted lists of distinct ids."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int32, Shaped


@dataclass(frozen=True)
class RatingsTable:
    """What a source of ratings gives, before any filter: the rows as they were read, repeated pairs included.

    ``user_codes`` and ``item_codes`` index into ``user_ids`` and ``item_ids``, which are sorted ascending
    without repeats: int64 where every id of the source is an integer of that range written the usual way,
    else object arrays of ``str`` (so ``"007"`` stays ``"007"``). ``ratings`` and ``timestamps`` (Unix
    seconds, or any monotone rank) are finite, run along the rows, and are ``None`` where the source has none.
    ``titles`` and ``genres`` run along ``item_ids``, with ``None`` where unknown. ``item_ids`` may hold items
    that no row mentions. ``source`` names the table in messages and manifests.
    """

    user_codes: Int32[np.ndarray, " rows"]
    item_codes: Int32[np.ndarray, " rows"]
    user_ids: Shaped[np.ndarray, " users"]
    item_ids: Shaped[np.ndarray, " items"]
    ratings: Float32[np.ndarray, " rows"] | None
    timestamps: Float64[np.ndarray, " rows"] | None
    titles: Shaped[np.ndarray, " items"] | None
    genres: Shaped[np.ndarray, " items"] | None
    source: str

    @property
    def n_rows(self) -> int:
        """Number of ratings, repeated pairs included."""
        return int(self.user_codes.shape[0])
