"""A small split, and a run directory that holds everything a run can hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_array

from recsys_vae.exports.run_directory import RunWriter
from recsys_vae.interactions.matrix import HeldOut, Interactions, Split

TITLES = ["Heat (1995)", 'A "quoted", title', None, "Amélie (2001)", "<b>bold</b>"]


def make_split() -> Split:
    def rows(*users: list[int]) -> csr_array:
        dense = np.zeros((len(users), 5), dtype=np.float32)
        for user, items in enumerate(users):
            dense[user, items] = 1
        return csr_array(dense)

    def ids(*names: str) -> np.ndarray:
        return np.array(names, dtype=object)

    return Split(
        train=Interactions(
            rows([0, 1, 2], [1, 3], [0, 4]),
            ids("a", "b", "c"),
            np.array([2**53 + 1, -7, 0, 5, 9]),
            titles=np.array(TITLES, dtype=object),
        ),
        validation=HeldOut(ids("d"), rows([0, 2]), rows([3])),
        test=HeldOut(ids("e", "ü"), rows([1], []), rows([0, 4], [2])),
        manifest={"name": "strong_generalisation", "seed": np.int64(3)},
        sha256="ab" * 32,
    )


def write_run(path: Path) -> Path:
    split = make_split()
    with RunWriter.begin(path) as run:
        run.write_config({"seed": 3, "model": {"_target_": "recsys_vae.models.mult_vae.MultVAE"}})
        run.write_weights({"w": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1.5]).bfloat16()})
        run.write_items(split.train.item_ids, split.train.titles)
        run.write_users(split)
        run.write_split(split.manifest, split.sha256)
        run.write_metrics({"test": {"ndcg@100": {"mean": np.float64(0.25), "stderr": float("nan")}}})
        run.write_per_user(pd.DataFrame({"user_id": ["e", "ü"], "ndcg@100": [0.5, 0.0]}))
        run.write_history([{"epoch": 0, "loss": 0.1 + 0.2, "validation ndcg@100": None}])
        run.write_history([{"epoch": 1, "loss": 1e-17, "validation ndcg@100": 0.5}])
        run.write_report("<!DOCTYPE html>\n")
        run.log_path.write_text("hello\n")
        (run.checkpoint_directory / "last.ckpt").write_bytes(b"state")
        return run.finalize()
