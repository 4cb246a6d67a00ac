"""Held-out users with histories of a length of choice: long ones cut short, their targets as they were."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from recsys_vae.interactions import HeldOut

SHORT = {"1-5": (1, 5), "6-20": (6, 20), "21-50": (21, 50)}
MORE = "more"


@dataclass(frozen=True)
class Stratum:
    """Users with histories of similar length; ``liked`` is what they are known to like but for the targets."""

    name: str
    held_out: HeldOut
    liked: csr_array

    def first(self, n_users: int) -> Stratum:
        """Of the first users only."""
        held_out = HeldOut(
            self.held_out.user_ids[:n_users], self.held_out.history[:n_users], self.held_out.target[:n_users]
        )
        return Stratum(self.name, held_out, self.liked[:n_users])


def shorten(history: csr_array, shortest: int, longest: int, rng: np.random.Generator) -> csr_array:
    """A random subset of each row, of a size between the two, both included."""
    starts = [0]
    kept = []
    for begin, end in zip(history.indptr[:-1], history.indptr[1:], strict=True):
        size = int(rng.integers(shortest, longest + 1))
        kept.append(np.sort(rng.permutation(np.arange(begin, end))[:size]))
        starts.append(starts[-1] + len(kept[-1]))
    places = np.concatenate(kept)
    return csr_array((history.data[places], history.indices[places], starts), shape=history.shape)


def make_strata(held_out: HeldOut, n_users: int | None, seed: int) -> list[Stratum]:
    """Short histories cut from long ones, and the long ones; ``n_users`` of each at most, and all if none."""
    rng = np.random.default_rng(seed)
    lengths, n_targets = (np.diff(part.indptr) for part in (held_out.history, held_out.target))
    order = rng.permutation(held_out.n_users)
    order = order[n_targets[order] > 0]
    strata = []
    for name, (shortest, longest) in {**SHORT, MORE: (51, None)}.items():
        users = order[lengths[order] >= (shortest if longest is None else longest)][:n_users]
        if not len(users):
            continue
        liked = held_out.history[users]
        history = liked if longest is None else shorten(liked, shortest, longest, rng)
        strata.append(
            Stratum(name, HeldOut(held_out.user_ids[users], history, held_out.target[users]), liked)
        )
    return strata
