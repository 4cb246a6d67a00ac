"""The plain values that the first stages hand on: a user-by-item matrix with its ids, and a split of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped
from scipy.sparse import csr_array


@dataclass(frozen=True)
class Interactions:
    """Who liked what: rows are users, columns are items.

    ``matrix`` is a CSR array of float32 in canonical form (sorted indices, no repeats, no stored zeros): 1 for
    an interaction, or its weight. Ids are int64 arrays, or object arrays of ``str``; both are sorted.
    ``timestamps`` (Unix seconds, or any monotone rank) runs parallel to ``matrix.data``. ``titles`` has one
    entry an item, ``None`` where it is unknown.
    """

    matrix: csr_array
    user_ids: Shaped[np.ndarray, " users"]
    item_ids: Shaped[np.ndarray, " items"]
    timestamps: Float[np.ndarray, " nnz"] | None = None
    titles: Shaped[np.ndarray, " items"] | None = None

    @property
    def n_users(self) -> int:
        """Number of rows."""
        return int(self.matrix.shape[0])

    @property
    def n_items(self) -> int:
        """Number of columns."""
        return int(self.matrix.shape[1])

    @property
    def item_counts(self) -> np.ndarray:
        """How many users interacted with each item: int64, ``(items,)``."""
        return np.bincount(self.matrix.indices, minlength=self.n_items).astype(np.int64)


@dataclass(frozen=True)
class HeldOut:
    """Users to evaluate on: what a model may see of them (``history``) and what it must find (``target``).

    Both are CSR arrays ``(users, items)`` over the training vocabulary, disjoint entry by entry.
    """

    user_ids: Shaped[np.ndarray, " users"]
    history: csr_array
    target: csr_array

    @property
    def n_users(self) -> int:
        """Number of held-out users, those without a target included."""
        return int(self.history.shape[0])


@dataclass(frozen=True)
class Split:
    """Training interactions, two held-out parts, and the record that lets two runs be compared.

    ``manifest`` holds the split's name, seed, parameters and counts (JSON types only); ``sha256`` is the digest
    of every id and index in the split, so that two splits are the same exactly when their digests are.
    """

    train: Interactions
    validation: HeldOut
    test: HeldOut
    manifest: dict[str, Any] = field(default_factory=dict)
    sha256: str = ""
