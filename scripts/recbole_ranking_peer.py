"""RecBole's models in the protocol of ``peer_protocol.py``. Runs in RecBole's environment.

Settings: ``model`` (MultiVAE, MultiDAE, RecVAE or EASE), ``patience``, ``anneal_epochs`` (MultiVAE: epochs until the
cap is reached, in place of ``total_anneal_steps``) and RecBole's own, such as ``learning_rate``. Training epochs are
its trainer's; it has no held-out users, so the model's own forward pass is asked with their histories.
"""

# mypy: disable-error-code="import-not-found"
from __future__ import annotations

import contextlib
import copy
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from peer_protocol import BestEpoch, Fitted, Score, Task, run
from recbole.config import Config
from recbole.data import create_dataset
from recbole.data.dataloader import UserDataLoader
from recbole.utils import get_model, get_trainer, init_seed
from recbole_model import write_atomic_file


def make_config(task: Task, workspace: Path) -> Any:
    """RecBole's defaults but for the settings; everything that ``task`` trains on is in its training part."""
    settings = {
        key: value for key, value in task.settings.items() if key not in ("patience", "anneal_epochs")
    }
    if "anneal_epochs" in task.settings:
        # RecBole's weight is update / steps up to the cap: the cap is reached at cap * steps updates.
        updates = task.settings["anneal_epochs"] * -(-task.train.shape[0] // settings["train_batch_size"])
        settings["total_anneal_steps"] = round(updates / settings["anneal_cap"])
    write_atomic_file(task.train, workspace)
    return Config(
        model=settings.pop("model"),
        dataset="ours",
        config_dict={
            "data_path": str(workspace),
            "checkpoint_dir": str(workspace / "saved"),
            "use_gpu": False,
            "show_progress": False,
            "seed": task.seed,
            "eval_args": {
                "split": {"RS": [1.0, 0.0, 0.0]},
                "group_by": "user",
                "order": "RO",
                "mode": "full",
            },
            **settings,
        },
    )


def fit(task: Task) -> Fitted:
    """Train in a folder that is thrown away: RecBole leaves logs, checkpoints and its dataset where it runs."""
    torch.set_num_threads(task.threads)
    sys.argv = sys.argv[:1]  # RecBole parses it too, with eval, and would take our options for its own
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        config = make_config(task, Path(name))
        init_seed(config["seed"], config["reproducibility"])
        dataset = create_dataset(config).build()[0]
        # Column of ours -> column of RecBole's, where 0 is padding.
        columns = dataset.token2id(dataset.iid_field, np.arange(task.train.shape[1]).astype(str))
        init_seed(config["seed"] + config["local_rank"], config["reproducibility"])
        began = time.perf_counter()
        model = get_model(config["model"])(config, dataset).to(config["device"])
        seconds = time.perf_counter() - began
        if config["model"] == "EASE":  # its constructor is the fit
            weights = np.asarray(model.item_similarity)[np.ix_(columns, columns)]
            return Fitted(lambda history: history @ weights, seconds)
        return _train(task, config, dataset, model, columns)


def _train(task: Task, config: Any, dataset: Any, model: Any, columns: np.ndarray) -> Fitted:
    """Epochs of RecBole's trainer, with early stopping on the validation users."""
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    loader = UserDataLoader(config, dataset, None, shuffle=True)
    score, best = _scorer(model, columns), BestEpoch(task, task.settings["patience"])
    for epoch in range(config["epochs"]):
        began = time.perf_counter()
        trainer._train_epoch(loader, epoch)
        seconds = time.perf_counter() - began
        if not best.update(seconds, score, lambda: copy.deepcopy(model.state_dict())):
            break
    model.load_state_dict(best.best_state)
    return best.fitted(score)


def _scorer(model: Any, columns: np.ndarray) -> Score:
    """The model's logits for histories in our columns; without dropout or noise, as it evaluates."""
    # RecVAE's forward pass asks for a dropout probability, which it ignores in evaluation.
    further = (0.0,) if type(model).__name__ == "RecVAE" else ()

    @torch.no_grad()
    def score(history: sp.csr_array) -> np.ndarray:
        model.eval()
        ratings = torch.zeros(history.shape[0], model.n_items)
        ratings[:, columns] = torch.as_tensor(history.toarray(), dtype=torch.float32)
        answer = model.forward(ratings, *further)
        logits = answer[0] if isinstance(answer, tuple) else answer
        return logits.numpy()[:, columns]

    return score


if __name__ == "__main__":
    sys.exit(run(fit, ("recbole", "torch", "numpy", "scipy")))
