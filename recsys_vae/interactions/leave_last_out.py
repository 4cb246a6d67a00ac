"""Hold out every user's last two items: one for validation, one for test."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys_vae.errors import UserError
from recsys_vae.interactions.matrix import Interactions, Split
from recsys_vae.interactions.splitting import (
    HeldOutEntries,
    assemble_split,
    check_seed,
    entry_users,
    place_in_user,
    random_keys,
    times_of,
)


@dataclass(frozen=True)
class LeaveLastOut:
    """Everybody trains; the model must find what they came to last.

    A user's last item is the test target and the one before it the validation target. The history is what
    came before the target: the training items for validation, those and the validation item for test. Users
    with fewer than 3 items only train. A target that nobody has in training drops out, and its user stays
    without one. Items of equal time are put in random order, since any fixed one (by id, say) would favour
    some items.

    Args:
        seed: of the order among equal times.
    """

    seed: int = 0

    def __post_init__(self) -> None:
        """Check the seed."""
        check_seed(self.seed)

    def __call__(self, interactions: Interactions) -> Split:
        """Split ``interactions``, which must have times.

        Raises:
            UserError: there are no times, or nobody has 3 items.
        """
        times = times_of(interactions, "leave_last_out")
        users = entry_users(interactions)
        n_items = np.diff(interactions.matrix.indptr)
        held_out = n_items >= 3
        if not held_out.any():
            most = int(n_items.max(initial=0))
            raise UserError(f"split=leave_last_out needs users with at least 3 items; the most is {most}")
        (keys,) = random_keys(self.seed, times.size)
        from_end = n_items[users] - 1 - place_in_user(users, times, keys)
        evaluated = held_out[users]
        train = ~evaluated | (from_end >= 2)
        return assemble_split(
            interactions,
            name="leave_last_out",
            seed=self.seed,
            parameters={},
            train_users=np.ones(interactions.n_users, bool),
            train=train,
            validation=HeldOutEntries(held_out, evaluated & (from_end >= 2), evaluated & (from_end == 1)),
            test=HeldOutEntries(held_out, evaluated & (from_end >= 1), evaluated & (from_end == 0)),
        )
