"""What every split shares: held-out parts over the training vocabulary, a manifest, a digest.

A split is a choice of entries of the interaction matrix (see ``strong_generalisation``, ``leave_last_out``
and ``temporal``); :func:`assemble_split` does the rest.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float, Int, Shaped, UInt64
from scipy.sparse import csr_array

from recsys_vae.errors import UserError
from recsys_vae.interactions.matrix import HeldOut, Interactions, Split

_LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True)
class HeldOutEntries:
    """A held-out part as masks: its users, and which entries of theirs are history and which target."""

    users: Bool[np.ndarray, " users"]
    history: Bool[np.ndarray, " nnz"]
    target: Bool[np.ndarray, " nnz"]


def entry_users(interactions: Interactions) -> Int[np.ndarray, " nnz"]:
    """The row of every entry of the matrix, along ``matrix.data``."""
    rows: np.ndarray = np.repeat(np.arange(interactions.n_users), np.diff(interactions.matrix.indptr))
    return rows


def training_vocabulary(
    interactions: Interactions, train: Bool[np.ndarray, " nnz"]
) -> Bool[np.ndarray, " items"]:
    """The items that at least one training entry has."""
    mask: np.ndarray = np.bincount(interactions.matrix.indices[train], minlength=interactions.n_items) > 0
    return mask


def place_in_user(
    users: Int[np.ndarray, " nnz"], *keys: Shaped[np.ndarray, " nnz"]
) -> Int[np.ndarray, " nnz"]:
    """Rank from 0 of every entry among its user's, by the first key, then the next, then the order given.

    ``users`` must be ascending.
    """
    order = np.lexsort((*reversed(keys), users))
    starts = np.searchsorted(users, users)
    places = np.empty(users.size, np.int64)
    places[order] = np.arange(users.size)
    return places - starts


def random_keys(seed: int, *sizes: int) -> list[UInt64[np.ndarray, " _"]]:
    """One array of uniform 64-bit integers for each size, the same for a seed on every machine, for ever.

    They are the raw output of PCG64, which NumPy promises to keep; it makes no such promise for the methods
    of ``Generator``, so those are not used. Sorting by such keys is a uniform shuffle.
    """
    stream = np.random.PCG64(seed)
    return [np.asarray(stream.random_raw(size), np.uint64) for size in sizes]


def assemble_split(
    interactions: Interactions,
    *,
    name: str,
    seed: int | None,
    parameters: dict[str, Any],
    train_users: Bool[np.ndarray, " users"],
    train: Bool[np.ndarray, " nnz"],
    validation: HeldOutEntries,
    test: HeldOutEntries,
    dropped_users: dict[str, int] | None = None,
) -> Split:
    """Build a :class:`Split` from masks over the entries of ``interactions``.

    The items become those that ``train`` has, and every column is numbered anew; held-out entries of other
    items drop out and are counted in the manifest. Weights are kept; what evaluates targets
    looks at which entries there are, not at their weights.
    """
    vocabulary = training_vocabulary(interactions, train)
    users = entry_users(interactions)
    known = vocabulary[interactions.matrix.indices]
    training = Interactions(
        matrix=_part(interactions, users, train, train_users, vocabulary),
        user_ids=interactions.user_ids[train_users],
        item_ids=interactions.item_ids[vocabulary],
        timestamps=None if interactions.timestamps is None else interactions.timestamps[train],
        titles=None if interactions.titles is None else interactions.titles[vocabulary],
    )
    held_out = [
        HeldOut(
            user_ids=interactions.user_ids[part.users],
            history=_part(interactions, users, part.history & known, part.users, vocabulary),
            target=_part(interactions, users, part.target & known, part.users, vocabulary),
        )
        for part in (validation, test)
    ]
    unknown = (validation.history | validation.target | test.history | test.target) & ~known
    manifest: dict[str, Any] = {
        "name": name,
        "seed": seed,
        "parameters": parameters,
        "counts": {
            "train": {
                "users": training.n_users,
                "items": training.n_items,
                "interactions": int(training.matrix.nnz),
            },
            "validation": _counts(held_out[0]),
            "test": _counts(held_out[1]),
        },
        "dropped": {
            "items_without_training_users": int(np.count_nonzero(~vocabulary)),
            "interactions_with_those_items": int(np.count_nonzero(unknown)),
            "users": dropped_users or {},
        },
    }
    matrices = [training.matrix, *(part.history for part in held_out), *(part.target for part in held_out)]
    if any(bool((matrix.data != 1).any()) for matrix in matrices):
        manifest["weights_sha256"] = _weights_digest(matrices)
    return Split(training, held_out[0], held_out[1], manifest, split_digest(training, *held_out))


def split_digest(train: Interactions, validation: HeldOut, test: HeldOut) -> str:
    """SHA-256 over every id and index of a split, in a byte order and width that no machine changes.

    Weights, times and titles do not count: two splits with equal digests hold out the same things.
    """
    digest = hashlib.sha256(b"recsys-vae split 1")
    for ids in (train.user_ids, train.item_ids, validation.user_ids, test.user_ids):
        _hash_ids(digest, ids)
    for matrix in (train.matrix, validation.history, validation.target, test.history, test.target):
        for array in (matrix.indptr, matrix.indices):
            _hash_integers(digest, array)
    return digest.hexdigest()


def _weights_digest(matrices: list[csr_array]) -> str:
    """SHA-256 over the weights, which ``split_digest`` leaves out so that runs with and without can be compared.

    A run that is resumed must train on the same weights too.
    """
    digest = hashlib.sha256(b"recsys-vae weights 1")
    for matrix in matrices:
        digest.update(np.ascontiguousarray(matrix.data, "<f4").tobytes())
    return digest.hexdigest()


def check_seed(seed: object) -> None:
    """Raise ``UserError`` unless ``seed`` is a whole number from 0 that fits 63 bits."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= _LARGEST_SEED:
        raise UserError(f"split.seed={seed}: expected a whole number from 0 to {_LARGEST_SEED}")


def check_fraction(name: str, value: object) -> None:
    """Raise ``UserError`` unless ``value`` lies strictly between 0 and 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise UserError(f"split.{name}={value}: expected a fraction above 0 and below 1")


def times_of(interactions: Interactions, split: str) -> Float[np.ndarray, " nnz"]:
    """The timestamps, which ``split`` cannot do without.

    Raises:
        UserError: there are none.
    """
    if interactions.timestamps is None:
        message = (
            "expected interactions with times, and these have none (dataset.timestamp=COLUMN names them)"
        )
        raise UserError(f"split={split}: {message}")
    return interactions.timestamps


def _part(
    interactions: Interactions,
    users: np.ndarray,
    entries: np.ndarray,
    rows: np.ndarray,
    vocabulary: np.ndarray,
) -> csr_array:
    """The given entries as a matrix of the given rows and of the columns in the vocabulary."""
    matrix = interactions.matrix
    indptr = np.concatenate([[0], np.cumsum(np.bincount(users[entries], minlength=rows.size)[rows])])
    columns = (np.cumsum(vocabulary) - 1)[matrix.indices[entries]]
    index_type = matrix.indices.dtype
    shape = (int(np.count_nonzero(rows)), int(np.count_nonzero(vocabulary)))
    return csr_array(
        (matrix.data[entries], columns.astype(index_type), indptr.astype(index_type)), shape=shape
    )


def _counts(part: HeldOut) -> dict[str, int]:
    return {
        "users": part.n_users,
        "users_with_target": int(np.count_nonzero(np.diff(part.target.indptr))),
        "history": int(part.history.nnz),
        "target": int(part.target.nnz),
    }


def _hash_integers(digest: Any, values: np.ndarray) -> None:
    digest.update(np.int64(values.size).astype("<i8").tobytes())
    digest.update(np.ascontiguousarray(values, "<i8").tobytes())


def _hash_ids(digest: Any, ids: np.ndarray) -> None:
    if ids.dtype != object:
        digest.update(b"integers")
        _hash_integers(digest, ids)
        return
    words = pa.array(ids, pa.large_binary())
    digest.update(b"strings")
    _hash_integers(digest, np.asarray(pc.binary_length(words)))
    digest.update(b"".join(words.to_pylist()))
