"""Make a split, and hand it to another author's program: SciPy matrices, users by the items of the training users."""

from __future__ import annotations

from pathlib import Path

import scipy.sparse as sp

from recsys_vae.cli.config import compose_config
from recsys_vae.cli.stages import filter_ratings, load_ratings, split_interactions
from recsys_vae.interactions import Split


def read_split(overrides: list[str], seed: int) -> Split:
    """Make the split that ``recsys-vae train`` makes."""
    config = compose_config("train", [*overrides, f"seed={seed}"])
    return split_interactions(config, filter_ratings(config, load_ratings(config)).interactions)


def write_peer_split(split: Split, folder: Path) -> Path:
    """Write train.npz and, for validation and test, PART_history.npz and PART_target.npz; return ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    sp.save_npz(folder / "train.npz", split.train.matrix)
    for part in ("validation", "test"):
        held_out = getattr(split, part)
        sp.save_npz(folder / f"{part}_history.npz", held_out.history)
        sp.save_npz(folder / f"{part}_target.npz", held_out.target)
    return folder
