"""Hold out whole users: the split of Liang, Krishnan, Hoffman and Jebara (2018)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys_vae.errors import UserError
from recsys_vae.interactions.matrix import Interactions, Split
from recsys_vae.interactions.splitting import (
    HeldOutEntries,
    assemble_split,
    check_fraction,
    check_seed,
    entry_users,
    place_in_user,
    random_keys,
    training_vocabulary,
)

# 0.29 * 100 is a little less than 29 in floating point, and 29 is meant.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class StrongGeneralisation:
    """Train on some users, evaluate on others whom the model has never seen.

    Of a held-out user's items that are in the training vocabulary, ``target_fraction`` (rounded down, at
    least one) are the target and the others the history, drawn at random. A user with one such item has a
    history and no target; one with none has neither, and both stay in their part. (The code of the paper
    splits users with at least 5 items and leaves the others without a target.)

    Args:
        seed: of the choice of users and of targets.
        n_validation_users: a fraction of all users (a float below 1, rounded down) or their number (an int).
        n_test_users: likewise.
        target_fraction: part of a held-out user's items that must be found.
    """

    seed: int = 0
    n_validation_users: float | int = 0.1
    n_test_users: float | int = 0.1
    target_fraction: float = 0.2

    def __post_init__(self) -> None:
        """Check the parameters."""
        check_seed(self.seed)
        check_fraction("target_fraction", self.target_fraction)
        for name in ("n_validation_users", "n_test_users"):
            _check_users(name, getattr(self, name))

    def __call__(self, interactions: Interactions) -> Split:
        """Split ``interactions``; the order of the rows of its source does not matter.

        Raises:
            UserError: there are fewer users than the split needs.
        """
        n_users = interactions.n_users
        n_validation = _number("n_validation_users", self.n_validation_users, n_users)
        n_test = _number("n_test_users", self.n_test_users, n_users)
        if n_validation + n_test >= n_users:
            needed = n_validation + n_test + 1
            asked = (
                f"split.n_validation_users={self.n_validation_users} with n_test_users={self.n_test_users}"
            )
            raise UserError(f"{asked} needs {needed} users, one of them to train on; there are {n_users}")
        user_keys, entry_keys = random_keys(self.seed, n_users, interactions.matrix.nnz)
        shuffled = np.argsort(user_keys, kind="stable")
        part = np.zeros(n_users, np.int8)
        part[shuffled[:n_validation]] = 1
        part[shuffled[n_validation : n_validation + n_test]] = 2

        users = entry_users(interactions)
        train = part[users] == 0
        known = training_vocabulary(interactions, train)[interactions.matrix.indices]
        n_items = np.bincount(users[known], minlength=n_users)
        n_targets = np.floor(n_items * self.target_fraction + _ROUNDING).astype(np.int64)
        n_targets = np.where(n_items >= 2, np.maximum(n_targets, 1), 0)
        # Entries outside the vocabulary rank behind all others, so they are never a target.
        target = place_in_user(users, ~known, entry_keys) < n_targets[users]
        validation, test = (
            HeldOutEntries(
                part == number, (part[users] == number) & ~target, (part[users] == number) & target
            )
            for number in (1, 2)
        )
        return assemble_split(
            interactions,
            name="strong_generalisation",
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


def _check_users(name: str, value: object) -> None:
    is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    is_fraction = isinstance(value, float) and 0 < value < 1
    if not (is_count or is_fraction):
        raise UserError(f"split.{name}={value}: expected a fraction above 0 and below 1, or a count from 1")


def _number(name: str, value: float | int, n_users: int) -> int:
    if isinstance(value, int):
        return value
    number = int(value * n_users + _ROUNDING)
    if number == 0:
        raise UserError(
            f"split.{name}={value} of {n_users} users is none: the split needs {int(1 / value) + 1}"
        )
    return number
