"""Hand a split to another author's program: SciPy matrices in a folder, users by the items of the training users."""

from __future__ import annotations

from pathlib import Path

import scipy.sparse as sp

from recsys_vae.interactions import Split


def write_peer_split(split: Split, folder: Path) -> Path:
    """Write train.npz and, for validation and test, PART_history.npz and PART_target.npz; return ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    sp.save_npz(folder / "train.npz", split.train.matrix)
    for part in ("validation", "test"):
        held_out = getattr(split, part)
        sp.save_npz(folder / f"{part}_history.npz", held_out.history)
        sp.save_npz(folder / f"{part}_target.npz", held_out.target)
    return folder
