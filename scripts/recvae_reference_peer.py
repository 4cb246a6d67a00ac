"""The RecVAE of its authors (github.com/ilya-shenbin/RecVAE) in the protocol of ``peer_protocol.py``.

Settings: those of ``DEFAULTS``. ``--checkout`` is a folder with their ``model.py``; their ``run.py`` asks for CUDA and
for files of its own, so its loop is written here: three epochs of the encoder with dropout, the prior's update, one
epoch of the decoder without.
"""

from __future__ import annotations

import copy
import importlib.util
import sys
import time
from types import ModuleType
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from peer_protocol import BestEpoch, Fitted, Task, run

# The paper's, as in their run.py.
DEFAULTS = {
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


def reference_model(task: Task) -> ModuleType:
    """Import ``model.py`` of the checkout under a name of its own. Raises ``FileNotFoundError`` without one."""
    if task.checkout is None or not (task.checkout / "model.py").is_file():
        raise FileNotFoundError(f"--checkout: expected a folder with model.py, got {task.checkout}")
    spec = importlib.util.spec_from_file_location("recvae_reference_model", task.checkout / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fit(task: Task) -> Fitted:
    """Train by alternation; the weights are those of the best epoch on the validation users."""
    settings: dict[str, Any] = DEFAULTS | task.settings
    torch.set_num_threads(task.threads)
    torch.manual_seed(task.seed)
    generator = np.random.default_rng(task.seed)
    sizes = settings["hidden_dim"], settings["latent_dim"], task.train.shape[1]
    model = reference_model(task).VAE(*sizes)
    parts = {"encoder": model.encoder, "decoder": model.decoder}
    optimisers = {
        name: torch.optim.Adam(part.parameters(), lr=settings["learning_rate"])
        for name, part in parts.items()
    }

    def epochs(name: str, count: int, dropout: float) -> None:
        model.train()
        for _ in range(count):
            order = generator.permutation(task.train.shape[0])
            for users in np.split(order, range(settings["batch_size"], len(order), settings["batch_size"])):
                ratings = torch.Tensor(task.train[users].toarray())
                optimisers[name].zero_grad()
                _, loss = model(ratings, gamma=settings["gamma"], dropout_rate=dropout)
                loss.backward()
                optimisers[name].step()

    @torch.no_grad()
    def score(history: sp.csr_array) -> np.ndarray:
        model.eval()
        scores: np.ndarray = model(torch.Tensor(history.toarray()), calculate_loss=False).numpy()
        # It divides an empty history by its norm, 0: no preference.
        scores[np.diff(history.indptr) == 0] = 0.0
        return scores

    best = BestEpoch(task, settings["patience"])
    for _ in range(settings["epochs"]):
        began = time.perf_counter()
        epochs("encoder", settings["n_enc_epochs"], settings["dropout"])
        model.update_prior()
        epochs("decoder", settings["n_dec_epochs"], 0.0)
        if not best.update(time.perf_counter() - began, score, lambda: copy.deepcopy(model.state_dict())):
            break
    model.load_state_dict(best.best_state)
    return best.fitted(score)


if __name__ == "__main__":
    sys.exit(run(fit, ("torch", "numpy", "scipy")))
