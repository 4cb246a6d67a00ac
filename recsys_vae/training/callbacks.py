"""What happens at the end of an epoch: validation, the record of the best weights, and a checkpoint to resume from."""

from __future__ import annotations

import pickle
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, Checkpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor

from recsys_vae.atomic import atomic_path
from recsys_vae.errors import UserError
from recsys_vae.models import GradientModel
from recsys_vae.training.lit_vae import LitVAE

Validate = Callable[[GradientModel], Mapping[str, float]]
OnEpoch = Callable[[Mapping[str, float]], None]

# What torch.load raises for a file that is truncated, empty or of another kind, and what Lightning restores.
_DAMAGED = (EOFError, OSError, RuntimeError, ValueError, KeyError, IndexError, AttributeError, TypeError)
_NOT_WHOLE = "is not a whole checkpoint (without it, the run starts from the first epoch)"
_CHECKPOINT_KEYS = {"state_dict", "epoch", "global_step", "optimizer_states", "loops", "callbacks"}


class ValidateAndKeepBest(Callback):
    """Measure the model on the validation users after each epoch, and keep a copy of the best weights in memory.

    Each epoch gives one row: ``epoch`` (from 0), ``seconds`` (wall time since the previous epoch's end, validation
    and checkpoints left out), the objective's terms, the learning rate and the validation metrics.

    Args:
        validate: from a model to its validation metrics.
        monitor: the metric that decides; higher is better.
        on_epoch: receives each row.
    """

    def __init__(self, validate: Validate, monitor: str, on_epoch: OnEpoch) -> None:
        self.validate = validate
        self.monitor = monitor
        self.on_epoch = on_epoch
        self.best_score = -float("inf")
        self.best_epoch = -1
        self.best_weights: dict[str, Tensor] = {}
        self.training_seconds = 0.0
        self._epoch_began = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._epoch_began = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Validate, log, remember."""
        assert isinstance(pl_module, LitVAE)
        means = pl_module.epoch_means()
        seconds = time.perf_counter() - self._epoch_began
        self.training_seconds += seconds
        scores = dict(self.validate(pl_module.model))
        pl_module.model.train()
        if scores[self.monitor] > self.best_score:
            self.best_score = scores[self.monitor]
            self.best_epoch = trainer.current_epoch
            self.best_weights = {
                name: tensor.detach().to("cpu", copy=True)
                for name, tensor in pl_module.model.state_dict().items()
            }
        learning_rate = trainer.optimizers[0].param_groups[0]["lr"]
        row = {"seconds": seconds, **means, "learning_rate": learning_rate}
        row |= {f"validation_{name}": score for name, score in scores.items()}
        pl_module.log_dict(
            {name: torch.tensor(value, dtype=torch.float64) for name, value in row.items()},
            batch_size=1,
        )
        if trainer.is_global_zero:
            self.on_epoch({"epoch": trainer.current_epoch, **row})
        self._epoch_began = time.perf_counter()

    def state_dict(self) -> dict[str, Any]:
        """The best weights travel with the checkpoint: a resumed run may not find better ones."""
        return {
            "best_score": self.best_score,
            "best_epoch": self.best_epoch,
            "best_weights": self.best_weights,
            "training_seconds": self.training_seconds,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore."""
        self.best_score = state_dict["best_score"]
        self.best_epoch = state_dict["best_epoch"]
        self.best_weights = state_dict["best_weights"]
        self.training_seconds = state_dict["training_seconds"]


class ResumableCheckpoint(Checkpoint):
    """Write ``last.ckpt`` at the end of an epoch, when the last one is older than ``every_seconds``.

    A checkpoint holds the weights, the optimiser's state, the best weights and the epoch. A run that is killed loses
    the epochs since then and repeats them exactly, because all randomness follows from the seed and the epoch.

    With several processes each has this callback: only the first knows the run directory and when it is time, and
    it tells the others, who must take part in a save.

    Args:
        directory: of the checkpoint; ``None`` in the first process saves nothing.
        every_seconds: at least so long from one checkpoint to the next.
    """

    def __init__(self, directory: Path | None, every_seconds: float) -> None:
        self.path = None if directory is None else directory / "last.ckpt"
        self.every_seconds = every_seconds
        self._last = time.perf_counter()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Agree on the path."""
        self.path = trainer.strategy.broadcast(self.path, src=0)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save, if it is time."""
        if self.path is None:
            return
        due = time.perf_counter() - self._last >= self.every_seconds
        if trainer.strategy.broadcast(due, src=0):
            trainer.save_checkpoint(self.path)
            self._last = time.perf_counter()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A run that was killed after early stopping had decided must not train on when it resumes."""
        first = trainer.strategy.broadcast(trainer.current_epoch, src=0)
        if first != trainer.current_epoch:  # another launcher than Lightning's, which says nothing of the run
            raise UserError(
                f"resume: expected every process to start at epoch {first}, one starts at "
                f"{trainer.current_epoch}; let trainer.devices start the processes"
            )
        for callback in trainer.early_stopping_callbacks:
            assert callback is not None
            if callback.wait_count >= callback.patience:
                trainer.should_stop = True


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints that are whole or absent, and are never unpickled beyond plain values and tensors."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write under a temporary name, fsync, rename."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(target) as temporary:
            torch.save(checkpoint, temporary)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Load with ``weights_only=True``, whatever the caller asked for.

        Raises :class:`UserError` naming the file when it is damaged.
        """
        try:
            checkpoint = torch.load(path, map_location=map_location or "cpu", weights_only=True)
        except (*_DAMAGED, pickle.UnpicklingError, zipfile.BadZipFile) as error:
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise UserError(f"resume: {path} {_NOT_WHOLE}: {reason}") from error
        missing = _CHECKPOINT_KEYS - (checkpoint.keys() if isinstance(checkpoint, dict) else set())
        if missing:
            raise UserError(f"resume: {path} {_NOT_WHOLE}: it lacks {', '.join(sorted(missing))}")
        return dict(checkpoint)
