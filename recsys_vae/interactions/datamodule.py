"""Feeds training histories to the trainer in an order that follows from the seed and the epoch alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytorch_lightning as pl
import torch
from scipy.sparse import csr_array
from torch.utils.data import DataLoader, Dataset, Sampler

from recsys_vae.errors import UserError

# Row numbers, and those rows.
Batch = tuple[np.ndarray, csr_array]


class HistoryDataset(Dataset[Batch]):
    """Rows of a CSR matrix, fetched a batch at a time: ``dataset[[3, 1, 2]]`` is these numbers and the three rows."""

    def __init__(self, matrix: csr_array) -> None:
        self.matrix = matrix

    def __len__(self) -> int:
        return int(self.matrix.shape[0])

    def __getitem__(self, rows: np.ndarray) -> Batch:
        return rows, self.matrix[rows]


class EpochBatches(Sampler[np.ndarray]):
    """Batches of row numbers, shuffled anew each epoch.

    The order depends on ``(seed, epoch)`` only, so a resumed run needs no stored random state to see the batches
    that the uninterrupted one would have seen. With several processes each takes every ``world_size``-th batch
    slice of the same shuffle; the last batch may be smaller, and every process gets the same number of batches.
    An epoch may go through the rows several times, each time in another order.
    """

    def __init__(
        self,
        n_rows: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        n_passes: int = 1,
    ) -> None:
        self.n_rows = n_rows
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.n_passes = n_passes
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.n_passes * self._batches_a_pass

    @property
    def _batches_a_pass(self) -> int:
        return -(-self.n_rows // (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[np.ndarray]:
        generator = np.random.default_rng([self.seed, self.epoch])
        size = self.batch_size * self.world_size
        for _ in range(self.n_passes):
            order = generator.permutation(self.n_rows)
            for batch in range(self._batches_a_pass):
                rows = order[batch * size :][:size]
                share = rows[self.rank :: self.world_size]
                # A process may not go without: gradients are averaged over all of them.
                yield share if len(share) else rows[:1]


class HistoryDataModule(pl.LightningDataModule):
    """Training batches for Lightning: row numbers ``(batch,)`` and a CSR array ``(batch, items)`` of float32.

    An epoch goes as often through the users as the Lightning module's ``n_passes`` says, once where it says nothing.

    Args:
        matrix: training users by items.
        batch_size: users a gradient step, per device.
        seed: of the order of the users.
    """

    def __init__(self, matrix: csr_array, batch_size: int = 500, seed: int = 0) -> None:
        super().__init__()
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise UserError(f"trainer.batch_size: expected a whole number of at least 1, came {batch_size!r}")
        self.matrix = matrix
        self.batch_size = batch_size
        self.seed = seed

    def train_dataloader(self) -> DataLoader[Batch]:
        """One loader per process, which slices the matrix in the training process itself: a copy costs 0.1 ms."""
        trainer = self.trainer
        sampler = EpochBatches(
            self.matrix.shape[0],
            self.batch_size,
            self.seed,
            rank=0 if trainer is None else trainer.global_rank,
            world_size=1 if trainer is None else trainer.world_size,
            n_passes=1 if trainer is None else getattr(trainer.lightning_module, "n_passes", 1),
        )
        return DataLoader(
            HistoryDataset(self.matrix),
            sampler=sampler,
            batch_size=None,
            generator=torch.Generator().manual_seed(self.seed),
        )
