"""implicit's alternating least squares in the protocol of ``peer_protocol.py``. Runs in implicit's environment.

Settings: those of ``AlternatingLeastSquares``. A held-out user's factors are those that ``recalculate_user`` finds
from the history.
"""

# mypy: disable-error-code="import-not-found"
from __future__ import annotations

import sys
import time

import numpy as np
import scipy.sparse as sp
from implicit.cpu.als import AlternatingLeastSquares
from peer_protocol import Fitted, Task, run
from threadpoolctl import threadpool_limits


def fit(task: Task) -> Fitted:
    """Fit the factors; its own threads, one BLAS thread each, as its documentation asks for."""
    with threadpool_limits(1, "blas"):
        model = AlternatingLeastSquares(num_threads=task.threads, random_state=task.seed, **task.settings)
        began = time.perf_counter()
        model.fit(sp.csr_matrix(task.train), show_progress=False)
        seconds = time.perf_counter() - began

    def score(history: sp.csr_array) -> np.ndarray:
        users = model.recalculate_user(np.arange(history.shape[0]), sp.csr_matrix(history))
        return users @ model.item_factors.T

    return Fitted(score, seconds)


if __name__ == "__main__":
    sys.exit(run(fit, ("implicit", "numpy", "scipy")))
