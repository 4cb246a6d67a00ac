"""Trains by gradient steps, with Lightning: one call, from a model with fresh weights to one with its best."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import EarlyStopping, RichProgressBar

from recsys_vae.errors import UserError
from recsys_vae.models import GradientModel
from recsys_vae.models.base import check_interval, check_positive
from recsys_vae.training.allocator import keep_freed_memory
from recsys_vae.training.callbacks import (
    AtomicCheckpointIO,
    OnEpoch,
    ResumableCheckpoint,
    Validate,
    ValidateAndKeepBest,
)
from recsys_vae.training.kl_schedule import LinearKLSchedule
from recsys_vae.training.learning_rate import LearningRateSchedule
from recsys_vae.training.lit_vae import LitVAE, OptimiserFactory
from recsys_vae.training.objective import Objective

# The weights stay in float32: Adam's small steps vanish in anything shorter.
_PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "32")

# torch.set_float32_matmul_precision's: full products of float32 numbers, or faster ones that may round the factors.
_MATMUL_PRECISIONS = ("highest", "high", "medium")

_DDP_IN_TURN = "ddp_find_unused_parameters_true"

# Lightning starts the command again for every further device; those processes find the run directory here.
_DIRECTORY_VARIABLE = "RECSYS_VAE_RUN_DIRECTORY"


@dataclass(frozen=True)
class Fit:
    """What training leaves besides the weights: where the best epoch was, and what it cost.

    ``seconds`` is the wall time of the training epochs, without validation and checkpoints.
    """

    best_epoch: int
    best_score: float
    n_epochs: int
    seconds: float


@dataclass(frozen=True)
class VAETrainer:
    """Settings of a training run; ``configs/trainer`` documents each.

    ``accelerator``, ``devices``, ``precision`` and ``strategy`` are handed to Lightning as they are.
    ``float32_matmul_precision`` holds while gradients are computed; validation multiplies as the caller does.
    """

    max_epochs: int
    objective: Objective
    kl_schedule: LinearKLSchedule
    optimiser: OptimiserFactory
    learning_rate_schedule: LearningRateSchedule
    batch_size: int = 500
    patience: int = 10
    monitor: str = "ndcg@100"
    accelerator: str = "auto"
    devices: int | str | list[int] = 1
    precision: str | int = "32-true"
    float32_matmul_precision: str = "highest"
    strategy: str = "auto"
    checkpoint_seconds: float = 30.0
    progress_bar: bool = True
    tensorboard: bool = True

    def __post_init__(self) -> None:
        check_positive("trainer.max_epochs", self.max_epochs)
        check_positive("trainer.patience", self.patience)
        check_interval("trainer.checkpoint_seconds", self.checkpoint_seconds, 0.0, float("inf"))
        if str(self.precision) not in _PRECISIONS:
            raise UserError(
                f"trainer.precision: expected one of {', '.join(_PRECISIONS)}, came {self.precision!r}"
            )
        if self.float32_matmul_precision not in _MATMUL_PRECISIONS:
            raise UserError(
                f"trainer.float32_matmul_precision: expected one of {', '.join(_MATMUL_PRECISIONS)}, "
                f"came {self.float32_matmul_precision!r}"
            )
        try:
            self.optimiser([{"params": [torch.nn.Parameter(torch.zeros(1))]}])
        except (TypeError, ValueError) as error:
            raise UserError(f"trainer.optimiser: {error}") from error

    def fit(
        self,
        model: GradientModel,
        datamodule: pl.LightningDataModule,
        validate: Validate,
        *,
        seed: int = 0,
        directory: Path | None = None,
        on_epoch: OnEpoch = lambda row: None,
        on_start: Callable[[int], None] = lambda epoch: None,
    ) -> Fit:
        """Train ``model`` in place and leave it with the weights of its best validation epoch, in eval mode.

        Args:
            model: the network, with fresh weights.
            datamodule: gives batches of histories.
            validate: from the model to its validation metrics; called after each epoch.
            seed: of the noise.
            directory: where the checkpoint and the TensorBoard log go. A checkpoint found there is resumed from.
                ``None`` keeps everything in memory.
            on_epoch: receives a row of figures after each epoch.
            on_start: receives the number of epochs already done before the first one trains.
        """
        self.objective.begin_training(model)
        inherited = os.environ.get(_DIRECTORY_VARIABLE)
        if directory is None and inherited is not None:
            directory = Path(inherited)
        around = torch.get_float32_matmul_precision()

        def validate_as_the_caller(model: GradientModel) -> Mapping[str, float]:
            with _matmul_precision(around):
                return validate(model)

        keep_best = ValidateAndKeepBest(validate_as_the_caller, self.monitor, on_epoch)
        callbacks: list[pl.Callback] = [
            pl.callbacks.LambdaCallback(on_train_start=lambda trainer, _: on_start(trainer.current_epoch)),
            keep_best,
            EarlyStopping(
                f"validation_{self.monitor}",
                mode="max",
                patience=self.patience,
                check_on_train_epoch_end=True,
                check_finite=True,
            ),
        ]
        if self.progress_bar:
            callbacks.append(RichProgressBar(leave=False))
        keep_last = ResumableCheckpoint(
            None if directory is None else directory / "checkpoint", self.checkpoint_seconds
        )
        callbacks.append(keep_last)
        checkpoint = keep_last.path if keep_last.path is not None and keep_last.path.exists() else None
        keep_freed_memory()
        trainer = self._lightning_trainer(callbacks, directory)
        if self.objective.trains_in_turn and trainer.world_size > 1 and self.strategy != _DDP_IN_TURN:
            # Plain ddp waits forever, or stops with an error of its own, for gradients that a step does not have.
            raise UserError(
                f"trainer.strategy: expected {_DDP_IN_TURN} where parts of the model are trained in turn on "
                f"several devices, came {self.strategy!r}"
            )
        module = LitVAE(
            model, self.objective, self.kl_schedule, self.optimiser, self.learning_rate_schedule, seed
        )
        with warnings.catch_warnings():
            # Advice for image pipelines: the batches here are slices of a matrix in memory.
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            warnings.filterwarnings(
                "ignore", message=".*number of training batches.*smaller than the logging"
            )
            try:
                with _told_to_further_processes(directory), _matmul_precision(self.float32_matmul_precision):
                    trainer.fit(module, datamodule=datamodule, ckpt_path=checkpoint, weights_only=True)
            except SystemExit:  # what Lightning makes of Ctrl-C
                if not trainer.interrupted:
                    raise
        if trainer.interrupted:
            raise KeyboardInterrupt
        model.load_state_dict(keep_best.best_weights)
        model.eval()
        return Fit(
            best_epoch=keep_best.best_epoch,
            best_score=keep_best.best_score,
            n_epochs=trainer.current_epoch,
            seconds=keep_best.training_seconds,
        )

    def _lightning_trainer(self, callbacks: list[pl.Callback], directory: Path | None) -> pl.Trainer:
        logger: Any = False
        if self.tensorboard and directory is not None:
            logger = pl.loggers.TensorBoardLogger(directory, name="", version="tensorboard")
        try:
            return pl.Trainer(
                accelerator=self.accelerator,
                devices=self.devices,
                precision=self.precision,  # type: ignore[arg-type]  # checked by Lightning, which names the choices
                strategy=self.strategy,
                max_epochs=self.max_epochs,
                callbacks=callbacks,
                logger=logger,
                plugins=[AtomicCheckpointIO()],
                enable_progress_bar=self.progress_bar,
                enable_model_summary=False,
                use_distributed_sampler=False,
                num_sanity_val_steps=0,
            )
        except (
            ValueError,
            TypeError,
            RuntimeError,
            MisconfigurationException,
        ) as error:
            raise UserError(f"trainer: {error}") from error


@contextlib.contextmanager
def _told_to_further_processes(directory: Path | None) -> Iterator[None]:
    """They inherit the environment."""
    if directory is not None:
        os.environ[_DIRECTORY_VARIABLE] = str(directory.absolute())
    try:
        yield
    finally:
        os.environ.pop(_DIRECTORY_VARIABLE, None)


@contextlib.contextmanager
def _matmul_precision(name: str) -> Iterator[None]:
    """How products of float32 matrices are computed meanwhile."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def supports_fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware; elsewhere bf16 is many times slower than float32."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
