"""A run directory: everything that ``evaluate``, ``recommend`` and ``export`` need, on any machine.

==================  ============================================================================
``config.yaml``      the resolved configuration
``model.safetensors``  the weights
``items.parquet``    ``item_index``, ``item_id``, ``title`` if known, ``train_users``
``users.parquet``    ``user_id``, ``part``, ``history``, ``target``; may be left out
``split.json``       the split's seed, counts and SHA-256
``metrics.json``     means, standard errors, intervals
``per_user.parquet``  one row an evaluated user
``history.csv``      one row an epoch
``report.html``      self-contained
``log.txt``          what was printed
``manifest.json``    format version, and the size and SHA-256 of every file above
==================  ============================================================================
"""

from __future__ import annotations

import re
from pathlib import Path

from recsys_vae.exports.run_reader import PARTIAL_SUFFIX, Run, read_run
from recsys_vae.exports.run_targets import check_target, check_targets
from recsys_vae.exports.run_writer import RunWriter

__all__ = [
    "Run",
    "RunWriter",
    "check_target",
    "check_targets",
    "default_run_path",
    "interrupted_run_path",
    "read_run",
]


def default_run_path(root: str | Path, model: str, dataset: str, seed: int) -> Path:
    """First free name among ``ROOT/<dataset>-<model>-seed<seed>``, the same with ``-2``, and so on.

    A name is taken when a finished or an unfinished run has it.
    """
    stem = _stem(model, dataset, seed)
    number = 1
    while True:
        path = Path(root) / (stem if number == 1 else f"{stem}-{number}")
        if not path.exists() and not path.with_name(path.name + PARTIAL_SUFFIX).exists():
            return path
        number += 1


def interrupted_run_path(root: str | Path, model: str, dataset: str, seed: int) -> Path:
    """Name of the run that ``resume=true`` means when none is given: of the newest unfinished one.

    The newest of ``ROOT/<dataset>-<model>-seed<seed>.partial``, the same with ``-2``, and so on, is the one
    that was written to last. Where there is none, it is the first of those names, for the message.
    """
    stem = _stem(model, dataset, seed)
    pattern = re.compile(rf"{re.escape(stem)}(?:-(\d+))?{re.escape(PARTIAL_SUFFIX)}")
    found = []
    for partial in Path(root).glob(f"*{PARTIAL_SUFFIX}"):
        match = pattern.fullmatch(partial.name)
        if match and partial.is_dir():
            # A clock with coarse ticks gives equal times; then the higher number was made later.
            found.append((partial.stat().st_mtime_ns, int(match[1] or 1), partial))
    if not found:
        return Path(root) / stem
    newest = max(found)[2]
    return newest.with_name(newest.name.removesuffix(PARTIAL_SUFFIX))


def _stem(model: str, dataset: str, seed: int) -> str:
    return re.sub(r"[^\w.-]+", "-", f"{dataset}-{model}-seed{seed}").strip("-.")
