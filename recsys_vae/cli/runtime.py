"""What the verbs share: threads, devices, the terminal and the log."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from recsys_vae.errors import UserError
from recsys_vae.models.base import check_positive

# More than any machine has cores; PyTorch reserves memory for each thread before it looks at the number.
_MOST_THREADS = 4096

console = Console(highlight=False, soft_wrap=True)


def set_threads(threads: int | None) -> None:
    """Limit PyTorch's threads, where a number is given."""
    if threads is not None:
        check_positive("threads", threads)
        if threads > _MOST_THREADS:
            raise UserError(f"threads: expected at most {_MOST_THREADS}, came {threads!r}")
        torch.set_num_threads(threads)


def pick_device(accelerator: str) -> torch.device:
    """``auto`` prefers CUDA, then MPS, then the CPU."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if accelerator == "gpu":
        accelerator = "cuda" if available["cuda"] else "mps"
    if accelerator == "auto":
        accelerator = next(name for name, present in available.items() if present)
    if accelerator not in available:
        raise UserError(f"accelerator: expected auto, cpu, cuda or mps, came {accelerator!r}")
    if not available[accelerator]:
        raise UserError(f"accelerator: expected one that this machine has, came {accelerator!r}")
    return torch.device(accelerator)


def is_first_process() -> bool:
    """Whether this process writes: with several devices, Lightning starts the command again for the others."""
    return os.environ.get("LOCAL_RANK", "0") == "0" and os.environ.get("NODE_RANK", "0") == "0"


@contextlib.contextmanager
def log_file(path: Path) -> Iterator[None]:
    """Write the project's log to ``path`` too, while the body runs."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("recsys_vae")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()


def quiet_lightning() -> None:
    """Leave out what Lightning says about itself, and what processes after the first say again.

    Of Lightning: hardware that is absent, advertisements, tips.
    """
    if not is_first_process():
        logging.getLogger("recsys_vae").setLevel(logging.ERROR)
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    warnings.filterwarnings("ignore", module="lightning_fabric")


def metrics_table(parts: Mapping[str, Mapping[str, Any]], title: str) -> Table:
    """One row a metric, one column a part: mean and standard error."""
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("metric")
    for part in parts:
        table.add_column(part, justify="right")
    for name in next(iter(parts.values())):
        cells = [_mean_and_error(part.get(name)) for part in parts.values()]
        table.add_row(name, *cells)
    return table


def _mean_and_error(value: Any) -> str:
    if not isinstance(value, Mapping) or value.get("mean") is None:
        return "-"
    error = value.get("stderr")
    return f"{value['mean']:.4f}" + ("" if error is None else f" ± {error:.4f}")


def in_terminal() -> bool:
    """Whether somebody is watching."""
    return sys.stderr.isatty()
