"""The very split of MovieLens-20M on which Liang, Krishnan, Hoffman and Jebara (2018) report, and others since."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from recsys_vae.errors import UserError
from recsys_vae.interactions.matrix import Interactions, Split
from recsys_vae.interactions.splitting import (
    HeldOutEntries,
    assemble_split,
    check_fraction,
    entry_users,
    training_vocabulary,
)

_LARGEST_SEED = 2**32 - 1

# The paper's code leaves users with fewer items in the vocabulary without a target.
_LEAST_ITEMS = 5


@dataclass(frozen=True)
class Liang2018:
    """The split of the paper's published code, draw by draw.

    ``StrongGeneralisation`` is the same idea with draws of its own; this one repeats those of the code: NumPy's
    legacy ``RandomState``, whose streams NumPy keeps for ever.

    1. A permutation of the users, in ascending order of their ids: the last ``n_test_users`` of it are the test
       users, the ``n_validation_users`` before them the validation users, the rest train.
    2. The items are those that a training user has.
    3. For the validation users, and from the same seed again for the test users: user by user, in ascending order
       of ids, ``int(target_fraction * n)`` of the ``n`` items, drawn without replacement, are the target, and the
       others the history. A user with fewer than 5 items has no target, and draws nothing.

    The code draws places in the rows of ``ratings.csv``, which GroupLens orders by user, then by movie; a user's
    items are in ascending order here too. Files in another order give the same users, and other targets.

    Args:
        seed: of the legacy generator, 0 to 2^32 - 1; the paper's is 98765.
        n_validation_users: how many; 10,000 in the paper.
        n_test_users: likewise.
        target_fraction: part of a held-out user's items that must be found.
        expected_users: users that there must be before the split; 0 takes any number.
        expected_items: likewise, items of the training users.
        expected_interactions: likewise, interactions before the split.
    """

    seed: int = 98765
    n_validation_users: int = 10000
    n_test_users: int = 10000
    target_fraction: float = 0.2
    expected_users: int = 0
    expected_items: int = 0
    expected_interactions: int = 0

    def __post_init__(self) -> None:
        """Check the parameters."""
        if not _is_count(self.seed, 0) or self.seed > _LARGEST_SEED:
            raise UserError(f"split.seed={self.seed}: expected a whole number from 0 to {_LARGEST_SEED}")
        check_fraction("target_fraction", self.target_fraction)
        for name in ("n_validation_users", "n_test_users"):
            if not _is_count(getattr(self, name), 1):
                raise UserError(f"split.{name}={getattr(self, name)}: expected a whole number from 1")
        for name in ("expected_users", "expected_items", "expected_interactions"):
            if not _is_count(getattr(self, name), 0):
                raise UserError(f"split.{name}={getattr(self, name)}: expected a whole number from 0")

    def __call__(self, interactions: Interactions) -> Split:
        """Split ``interactions``.

        Raises:
            UserError: there are fewer users than the split needs, or a count is not the one expected.
        """
        n_users = interactions.n_users
        self._check_count("users", n_users)
        self._check_count("interactions", int(interactions.matrix.nnz))
        n_training = n_users - self.n_validation_users - self.n_test_users
        if n_training < 1:
            asked = (
                f"split.n_validation_users={self.n_validation_users} with n_test_users={self.n_test_users}"
            )
            raise UserError(
                f"{asked} needs {n_users - n_training + 1} users, one of them to train on; there are {n_users}"
            )
        order = np.random.RandomState(self.seed).permutation(n_users)
        part = np.zeros(n_users, np.int8)
        part[order[n_training : n_training + self.n_validation_users]] = 1
        part[order[n_training + self.n_validation_users :]] = 2

        users = entry_users(interactions)
        train = part[users] == 0
        vocabulary = training_vocabulary(interactions, train)
        self._check_count("items", int(np.count_nonzero(vocabulary)))
        known = vocabulary[interactions.matrix.indices]
        validation, test = (
            self._held_out(part == number, (part[users] == number) & known, users) for number in (1, 2)
        )
        return assemble_split(
            interactions,
            name="liang2018",
            seed=self.seed,
            parameters={
                "n_validation_users": self.n_validation_users,
                "n_test_users": self.n_test_users,
                "target_fraction": self.target_fraction,
            },
            train_users=part == 0,
            train=train,
            validation=validation,
            test=test,
        )

    def _held_out(
        self,
        members: Bool[np.ndarray, " users"],
        entries: Bool[np.ndarray, " nnz"],
        users: Int[np.ndarray, " nnz"],
    ) -> HeldOutEntries:
        """Draw the targets among the ``entries`` of the ``members``, as the code's own function does."""
        random_state = np.random.RandomState(self.seed)
        places = np.flatnonzero(entries)  # by user, then by item
        target = np.zeros(entries.size, bool)
        n_items = np.bincount(users[places], minlength=members.size)[members]
        for end, n in zip(np.cumsum(n_items), n_items, strict=True):
            if n >= _LEAST_ITEMS:
                drawn = random_state.choice(n, size=int(self.target_fraction * n), replace=False)
                target[places[end - n + drawn]] = True
        # What is outside the vocabulary counts as history until assemble_split drops it, and records it.
        return HeldOutEntries(members, members[users] & ~target, target)

    def _check_count(self, what: str, came: int) -> None:
        expected = getattr(self, f"expected_{what}")
        if expected and came != expected:
            raise UserError(
                f"split.expected_{what}={expected}: came {came} {what}; the ratings or the filters are not those "
                "that this split was published for"
            )


def _is_count(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
