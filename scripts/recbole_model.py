"""RecBole's MultiVAE on a matrix of ours: its configuration, its dataset, and a bare training loop.

Imported by ``recbole_peer.py`` in RecBole's own environment.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy_metrics import NDCG_AT, ranking_metrics
from recbole.config import Config
from recbole.data import create_dataset
from recbole.model.general_recommender import MultiVAE
from recbole.utils import init_seed

USERS_AT_ONCE = 500


def write_atomic_file(train: sp.csr_array, workspace: Path) -> None:
    """Write the matrix as RecBole's dataset "ours", whose tokens are our row and column numbers."""
    folder = workspace / "ours"
    folder.mkdir()
    pairs = np.column_stack(train.nonzero())
    np.savetxt(
        folder / "ours.inter", pairs, "%d", delimiter="\t", header="user_id:token\titem_id:token", comments=""
    )


def recbole_config(
    train: sp.csr_array, options: argparse.Namespace, workspace: Path, split: list[float]
) -> Any:
    """Write ``train`` as RecBole's atomic file; return its configuration: defaults but for what we set."""
    write_atomic_file(train, workspace)
    steps_per_epoch = -(-train.shape[0] // options.batch_size)
    anneal_steps = options.anneal_steps
    if options.annealing == "rescaled":
        # RecBole's weight is update / steps up to the cap: the cap is reached at cap * steps updates.
        anneal_steps = max(1, round(steps_per_epoch * options.epochs / 2 / options.kl_cap))
    return Config(
        model="MultiVAE",
        dataset="ours",
        config_dict={
            "data_path": str(workspace),
            "checkpoint_dir": str(workspace / "saved"),
            "use_gpu": False,
            "show_progress": False,
            "seed": options.seed,
            "epochs": options.epochs,
            "train_batch_size": options.batch_size,
            "eval_batch_size": options.eval_batch_size,
            "learning_rate": options.learning_rate,
            "mlp_hidden_size": [options.hidden_dim],
            "latent_dimension": 2 * options.latent_dim,
            "dropout_prob": options.dropout,
            "anneal_cap": options.kl_cap,
            "total_anneal_steps": anneal_steps,
            "eval_args": {"split": {"RS": split}, "group_by": "user", "order": "RO", "mode": "full"},
            "metrics": ["NDCG", "Recall"],
            "topk": [NDCG_AT],
            "valid_metric": f"NDCG@{NDCG_AT}",
            # A user of the trainer who wants every epoch.
            "stopping_step": options.epochs + 1,
        },
    )


class Peer:
    """RecBole's MultiVAE over our matrix, its numbering of users and items known, in a bare loop."""

    def __init__(self, train: sp.csr_array, options: argparse.Namespace, workspace: Path) -> None:
        """Let RecBole read the matrix from its own file format, and build its model on it."""
        config = recbole_config(train, options, workspace, split=[1.0, 0.0, 0.0])
        init_seed(config["seed"], config["reproducibility"])
        dataset = create_dataset(config).build()[0]
        self.batch_size = config["train_batch_size"]
        self.n_users = train.shape[0]
        # Column of ours -> column of RecBole's, where 0 is padding.
        self.columns = dataset.token2id(dataset.iid_field, np.arange(train.shape[1]).astype(str))
        rows = dataset.token2id(dataset.uid_field, np.arange(train.shape[0]).astype(str))

        init_seed(config["seed"] + config["local_rank"], config["reproducibility"])
        self.model = MultiVAE(config, dataset).to(config["device"])
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=config["learning_rate"])
        self._verify(train, rows)

    def _verify(self, train: sp.csr_array, rows: np.ndarray) -> None:
        """Raise unless the dense batches that the model will train on are the rows of ``train``."""
        for start in range(0, self.n_users, USERS_AT_ONCE):
            ours = train[start : start + USERS_AT_ONCE].toarray()
            theirs = self.model.get_rating_matrix(torch.as_tensor(rows[start : start + USERS_AT_ONCE]))
            if not np.array_equal(theirs[:, self.columns].numpy(), ours) or theirs[:, 0].any():
                raise RuntimeError(f"RecBole's matrix differs from ours in rows from {start}")

    @property
    def kl_weight(self) -> float:
        """The annealed weight of the KL term at the last update."""
        if self.model.total_anneal_steps <= 0:
            return float(self.model.anneal_cap)
        return float(min(self.model.anneal_cap, self.model.update / self.model.total_anneal_steps))

    def train_epoch(self) -> float:
        """One pass over the users, as RecBole's trainer makes it; returns the sum of the batches' losses."""
        self.model.train()
        total = 0.0
        for users in (torch.randperm(self.n_users) + 1).split(self.batch_size):
            self.optimizer.zero_grad()
            loss = self.model.calculate_loss({self.model.USER_ID: users})
            total += loss.item()
            if torch.isnan(loss):
                raise ValueError("Training loss is nan")
            loss.backward()
            self.optimizer.step()
        return total

    @torch.no_grad()
    def evaluate(self, history: sp.csr_array, target: sp.csr_array) -> dict[str, np.ndarray]:
        """Score unseen users from their histories by the model's own forward pass, and rank every item."""
        self.model.eval()
        parts = []
        for start in range(0, history.shape[0], USERS_AT_ONCE):
            seen = history[start : start + USERS_AT_ONCE]
            ratings = torch.zeros(seen.shape[0], self.model.n_items)
            ratings[:, self.columns] = torch.as_tensor(seen.toarray(), dtype=torch.float32)
            scores = self.model.forward(ratings)[0].numpy()[:, self.columns]
            parts.append(ranking_metrics(scores, seen, target[start : start + USERS_AT_ONCE]))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
