"""Hold out what happened after a date: a cut in time that is the same for all users."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys_vae.errors import UserError
from recsys_vae.interactions.matrix import Interactions, Split
from recsys_vae.interactions.splitting import (
    HeldOutEntries,
    assemble_split,
    check_fraction,
    entry_users,
    times_of,
    training_vocabulary,
)


@dataclass(frozen=True)
class Temporal:
    """Train on the past, evaluate on what the same users did next.

    Two dates are chosen so that about ``test_fraction`` of the interactions come at or after the second and
    ``validation_fraction`` between the two (equal times stay together, at or after the cut). The target of a
    part is what a user did within its window, the history all that they did before it, both over the items of
    the training window. Users without a history or without a target are not in the part. There is no
    randomness.

    Args:
        validation_fraction: of the interactions, by time.
        test_fraction: likewise, the latest.
    """

    validation_fraction: float = 0.1
    test_fraction: float = 0.1

    def __post_init__(self) -> None:
        """Check the fractions."""
        for name in ("validation_fraction", "test_fraction"):
            check_fraction(name, getattr(self, name))
        if self.validation_fraction + self.test_fraction >= 1:
            raise UserError(
                f"split.validation_fraction={self.validation_fraction} and "
                f"split.test_fraction={self.test_fraction}: expected a sum below 1, to leave some to train on"
            )

    def __call__(self, interactions: Interactions) -> Split:
        """Split ``interactions``, which must have times.

        Raises:
            UserError: there are no times, or a part is left without users.
        """
        times = times_of(interactions, "temporal")
        users = entry_users(interactions)
        first, second = self._cuts(times)
        train = times < first
        known = training_vocabulary(interactions, train)[interactions.matrix.indices]
        windows = {"validation": (first, second), "test": (second, np.inf)}
        parts, dropped = {}, {}
        for name, (start, end) in windows.items():
            history, target = times < start, (times >= start) & (times < end)
            with_history, with_target = (
                np.bincount(users[mask & known], minlength=interactions.n_users) > 0
                for mask in (history, target)
            )
            evaluated = with_history & with_target
            if not evaluated.any():
                raise UserError(
                    f"split=temporal leaves nobody in {name}: no user has items before and within its window "
                    f"from {start:.15g}" + (f" to {end:.15g}" if np.isfinite(end) else "")
                )
            active = np.bincount(users[target], minlength=interactions.n_users) > 0
            dropped[f"{name}_without_history_or_target"] = int(np.count_nonzero(active & ~evaluated))
            parts[name] = HeldOutEntries(evaluated, history & evaluated[users], target & evaluated[users])
        return assemble_split(
            interactions,
            name="temporal",
            seed=None,
            parameters={
                "validation_fraction": self.validation_fraction,
                "test_fraction": self.test_fraction,
                "validation_from": float(first),
                "test_from": float(second),
            },
            train_users=np.bincount(users[train], minlength=interactions.n_users) > 0,
            train=train,
            validation=parts["validation"],
            test=parts["test"],
            dropped_users=dropped,
        )

    def _cuts(self, times: np.ndarray) -> tuple[np.float64, np.float64]:
        """The times at which the validation and the test windows open."""
        ordered = np.sort(times)
        # 0.1 + 0.2 is a little more than 0.3 in floating point; the small term undoes such differences.
        ranks = [
            int(ordered.size * (1 - fraction) + 1e-9)
            for fraction in (self.validation_fraction + self.test_fraction, self.test_fraction)
        ]
        first, second = ordered[np.minimum(ranks, ordered.size - 1)]
        return first, second
