"""The RecVAE of its authors (github.com/ilya-shenbin/RecVAE) in the protocol of ``peer_protocol.py``.

Settings: those of ``DEFAULTS``. ``--checkout`` is a folder with their ``model.py``; their ``run.py`` asks for CUDA and
for files of its own, so its loop is written here: three epochs of the encoder with dropout, the prior's update, one
epoch of the decoder without. ``benchmark_rec_vae.py`` times it.
"""

from __future__ import annotations

import copy
import importlib.util
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from peer_protocol import BestEpoch, Fitted, Task, run

# The paper's, as in their run.py.
DEFAULTS: dict[str, Any] = {
    "hidden_dim": 600,
    "latent_dim": 200,
    "dropout": 0.5,
    "gamma": 0.005,
    "batch_size": 500,
    "learning_rate": 5e-4,
    "n_enc_epochs": 3,
    "n_dec_epochs": 1,
    "epochs": 50,
    "patience": 50,
}


def reference_model(checkout: Path | None) -> ModuleType:
    """Import ``model.py`` of the checkout under a name of its own. Raises ``FileNotFoundError`` without one."""
    if checkout is None or not (checkout / "model.py").is_file():
        raise FileNotFoundError(f"--checkout: expected a folder with model.py, got {checkout}")
    spec = importlib.util.spec_from_file_location("recvae_reference_model", checkout / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Reference:
    """Their model, and the loop of their ``run.py`` over our matrix.

    Args:
        checkout: of their repository.
        train: training users by items.
        settings: those that differ from ``DEFAULTS``.
        seed: of the weights, the order of the users and the noise.
    """

    def __init__(
        self, checkout: Path | None, train: sp.csr_array, settings: dict[str, Any], seed: int
    ) -> None:
        self.settings = DEFAULTS | settings
        self.train = train
        torch.manual_seed(seed)
        self._generator = np.random.default_rng(seed)
        sizes = self.settings["hidden_dim"], self.settings["latent_dim"], train.shape[1]
        self.model = reference_model(checkout).VAE(*sizes)
        self._optimisers = {
            name: torch.optim.Adam(getattr(self.model, name).parameters(), lr=self.settings["learning_rate"])
            for name in ("encoder", "decoder")
        }

    def train_epoch(self) -> None:
        """One alternation: what their ``run.py`` calls an epoch."""
        self.train_part("encoder", self.settings["n_enc_epochs"], self.settings["dropout"])
        self.model.update_prior()
        self.train_part("decoder", self.settings["n_dec_epochs"], 0.0)

    def train_part(self, name: str, n_epochs: int, dropout: float) -> None:
        """Passes over the users that train the encoder, or the decoder."""
        optimiser, size = self._optimisers[name], self.settings["batch_size"]
        self.model.train()
        for _ in range(n_epochs):
            order = self._generator.permutation(self.train.shape[0])
            for users in np.split(order, range(size, len(order), size)):
                ratings = torch.Tensor(self.train[users].toarray())
                optimiser.zero_grad()
                _, loss = self.model(ratings, gamma=self.settings["gamma"], dropout_rate=dropout)
                loss.backward()
                optimiser.step()

    @torch.no_grad()
    def score(self, history: sp.csr_array) -> np.ndarray:
        """Their forward pass, ``(users, items)``."""
        self.model.eval()
        scores: np.ndarray = self.model(torch.Tensor(history.toarray()), calculate_loss=False).numpy()
        # It divides an empty history by its norm, 0: no preference.
        scores[np.diff(history.indptr) == 0] = 0.0
        return scores


def fit(task: Task) -> Fitted:
    """Train by alternation; the weights are those of the best epoch on the validation users."""
    torch.set_num_threads(task.threads)
    reference = Reference(task.checkout, task.train, task.settings, task.seed)
    best = BestEpoch(task, reference.settings["patience"])
    for _ in range(reference.settings["epochs"]):
        began = time.perf_counter()
        reference.train_epoch()
        seconds = time.perf_counter() - began
        if not best.update(seconds, reference.score, lambda: copy.deepcopy(reference.model.state_dict())):
            break
    reference.model.load_state_dict(best.best_state)
    return best.fitted(reference.score)


if __name__ == "__main__":
    sys.exit(run(fit, ("torch", "numpy", "scipy")))
