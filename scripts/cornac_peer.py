"""Cornac's VAECF in the protocol of ``peer_protocol.py``. Runs in Cornac's environment.

Settings: those of ``VAECF`` with their defaults, and ``patience``. Cornac has neither validation while it trains nor
held-out users; its own training loop is left as it is, watched from its progress bar, and its network encodes and
decodes the histories as its ``score`` does.
"""

# mypy: disable-error-code="import-not-found"
from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from cornac.data import Dataset
from cornac.models import VAECF
from cornac.models.vaecf import vaecf
from peer_protocol import BestEpoch, Fitted, Task, run


class ValidatedEpochs:
    """In the place of the progress bar that Cornac's training loop runs over: validates between its epochs."""

    def __init__(self, epochs: range, update: Callable[[float], bool]) -> None:
        self._epochs = epochs
        self._update = update

    def __iter__(self) -> Iterator[int]:
        for epoch in self._epochs:
            began = time.perf_counter()
            yield epoch
            if not self._update(time.perf_counter() - began):
                return

    def set_postfix(self, **_: Any) -> None:
        """What Cornac shows of its loss."""


def fit(task: Task) -> Fitted:
    """Train with Cornac's loop; the weights are those of the best epoch on the validation users."""
    torch.set_num_threads(task.threads)
    settings = dict(task.settings)
    best = BestEpoch(task, settings.pop("patience"))
    model = VAECF(seed=task.seed, **settings)
    # Cornac numbers users and items as they come: in the order of the matrix, every item once in a map of its own.
    pairs = np.column_stack(task.train.nonzero())
    train_set = Dataset.from_uir([(int(user), int(item), 1.0) for user, item in pairs], seed=task.seed)
    columns = np.array([train_set.iid_map[item] for item in range(task.train.shape[1])])

    @torch.no_grad()
    def score(history: sp.csr_array) -> np.ndarray:
        inputs = torch.zeros(history.shape)
        inputs[:, columns] = torch.as_tensor(history.toarray(), dtype=torch.float32)
        mean, _ = model.vae.encode(inputs)
        return model.vae.decode(mean).numpy()[:, columns]

    def epochs(start: int, stop: int, disable: bool) -> ValidatedEpochs:
        return ValidatedEpochs(
            range(start, stop),
            lambda seconds: best.update(seconds, score, lambda: copy.deepcopy(model.vae.state_dict())),
        )

    vaecf.trange = epochs
    model.fit(train_set)
    model.vae.load_state_dict(best.best_state)
    return best.fitted(score)


if __name__ == "__main__":
    sys.exit(run(fit, ("cornac", "torch", "numpy", "scipy")))
