"""Run the RecVAE of its authors (github.com/ilya-shenbin/RecVAE) on a split given as files, by our metrics.

    python scripts/rec_vae_peer.py CHECKOUT FOLDER --output RESULT.json --epochs 50 --per-user PER_USER.npz

CHECKOUT is a folder with their `model.py`. FOLDER holds SciPy CSR matrices as `peer_split.write_peer_split` writes
them; `--dataset OVERRIDES...` makes it first, from what `recsys-vae train` would read. Their `run.py` wants CUDA and
files of its own, so its loop is written here again: three epochs of the encoder with dropout 0.5, the prior's update,
an epoch of the decoder without dropout, Adam at 5e-4, batches of 500. The weights that were best on validation are
tested.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import statistics
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from machine import describe_machine
from numpy_metrics import NDCG_AT, ranking_metrics, summary
from peer_split import write_peer_split

USERS_AT_ONCE = 500
PARTS = ("train", "validation_history", "validation_target", "test_history", "test_target")
CURVE_METRIC = f"ndcg@{NDCG_AT}"


def reference_model(checkout: Path) -> ModuleType:
    """Import ``model.py`` of a checkout under a name of its own."""
    spec = importlib.util.spec_from_file_location("rec_vae_reference", checkout / "model.py")
    if spec is None or spec.loader is None:
        raise FileNotFoundError(checkout / "model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Peer:
    """Their model, and the loop of their ``run.py`` over our matrix.

    Args:
        checkout: of their repository.
        train: training users by items.
        gamma: weight of the KL term for each item of a history.
        hidden_dim, latent_dim, batch_size, learning_rate: their defaults are the paper's.
        seed: of the weights, the order of the users and the noise.
    """

    def __init__(
        self,
        checkout: Path,
        train: sp.csr_array,
        gamma: float,
        *,
        hidden_dim: int = 600,
        latent_dim: int = 200,
        batch_size: int = 500,
        learning_rate: float = 5e-4,
        seed: int = 1337,
    ) -> None:
        torch.manual_seed(seed)
        self.generator = np.random.default_rng(seed)
        self.train, self.gamma, self.batch_size = train, gamma, batch_size
        self.model = reference_model(checkout).VAE(hidden_dim, latent_dim, train.shape[1])
        self.optimisers = {
            name: torch.optim.Adam(set(getattr(self.model, name).parameters()), lr=learning_rate)
            for name in ("encoder", "decoder")
        }

    def train_epoch(self) -> None:
        """One alternation: what their ``run.py`` calls an epoch."""
        self._run("encoder", n_epochs=3, dropout_rate=0.5)
        self.model.update_prior()
        self._run("decoder", n_epochs=1, dropout_rate=0)

    def _run(self, part: str, n_epochs: int, dropout_rate: float) -> None:
        optimiser = self.optimisers[part]
        self.model.train()
        for _ in range(n_epochs):
            order = self.generator.permutation(self.train.shape[0])
            for start in range(0, len(order), self.batch_size):
                ratings = torch.Tensor(self.train[order[start : start + self.batch_size]].toarray())
                optimiser.zero_grad()
                _, loss = self.model(ratings, beta=None, gamma=self.gamma, dropout_rate=dropout_rate)
                loss.backward()
                optimiser.step()

    @torch.no_grad()
    def evaluate(self, history: sp.csr_array, target: sp.csr_array) -> dict[str, np.ndarray]:
        """NDCG@100, recall@20 and recall@50 of every user, by their forward pass. An empty history scores NaN."""
        self.model.eval()
        parts = []
        for start in range(0, history.shape[0], USERS_AT_ONCE):
            seen = history[start : start + USERS_AT_ONCE]
            scores = self.model(torch.Tensor(seen.toarray()), calculate_loss=False).numpy()
            parts.append(ranking_metrics(scores, seen, target[start : start + USERS_AT_ONCE]))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def measure_accuracy(
    peer: Peer, parts: dict[str, sp.csr_array], epochs: int, patience: int
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The learning curve, and the test metrics of the best weights: means, and of every user."""
    curve: list[dict[str, float]] = []
    best, best_weights = -1.0, peer.model.state_dict()
    for epoch in range(epochs):
        began, cpu_began = time.perf_counter(), time.process_time()
        peer.train_epoch()
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
        found = summary(peer.evaluate(parts["validation_history"], parts["validation_target"]))
        score = found[CURVE_METRIC]["mean"]
        curve.append({"epoch": epoch, "seconds": seconds, "cpu_seconds": cpu_seconds, CURVE_METRIC: score})
        print(f"epoch {epoch}: {CURVE_METRIC} {score:.4f}, {seconds:.1f} s", file=sys.stderr, flush=True)
        if score > best:
            best, best_weights = score, copy.deepcopy(peer.model.state_dict())
        best_epoch = max(curve, key=lambda row: row[CURVE_METRIC])["epoch"]
        if epoch - best_epoch >= patience:
            break
    peer.model.load_state_dict(best_weights)
    per_user = peer.evaluate(parts["test_history"], parts["test_target"])
    result = {
        "best_epoch": int(best_epoch),
        "validation": best,
        "test": summary(per_user),
        "seconds_per_epoch": statistics.median(row["seconds"] for row in curve),
        "curve": curve,
    }
    return result, per_user


def write_split(folder: Path, overrides: list[str]) -> None:
    """Write the split that ``recsys-vae train OVERRIDES`` makes."""
    from recsys_vae.cli.config import compose_config
    from recsys_vae.cli.stages import filter_ratings, load_ratings, split_interactions

    config = compose_config("train", overrides)
    write_peer_split(
        split_interactions(config, filter_ratings(config, load_ratings(config)).interactions), folder
    )


def main() -> int:
    """Write the result, print its main figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("checkout", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--output", type=Path, required=True, help="JSON")
    parser.add_argument("--per-user", type=Path, help="the test metrics of every user, .npz")
    parser.add_argument("--dataset", nargs="+", help="overrides, such as dataset=ml-1m seed=1")
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--patience", type=int, default=50)
    parser.add_argument("--gamma", type=float, default=0.005)
    parser.add_argument("--seed", type=int, default=1337)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.dataset:
        write_split(options.folder, options.dataset)
    parts = {name: sp.csr_array(sp.load_npz(options.folder / f"{name}.npz")) for name in PARTS}
    peer = Peer(options.checkout, parts["train"], options.gamma, seed=options.seed)
    result, per_user = measure_accuracy(peer, parts, options.epochs, options.patience)
    if options.per_user:
        np.savez_compressed(options.per_user, **per_user)
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
    report = {"machine": describe_machine(), "settings": settings, **result}
    options.output.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps({key: value for key, value in result.items() if key != "curve"}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
